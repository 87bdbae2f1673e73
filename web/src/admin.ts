// Small helps for the admin pages, which also work without them.
export {};
