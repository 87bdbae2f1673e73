package admin

import (
	"context"
	"errors"
	"slices"
	"sort"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/inventory"
)

func (h *handler) userRoutes(r fiber.Router) {
	r.Get("/users", h.users)
	r.Post("/users", h.createUser)
	r.Get("/users/new", h.newUser)
	r.Get("/users/:id", h.user)
	r.Post("/users/:id", h.updateUser)
	r.Post("/users/:id/password", h.resetPassword)
	r.Get("/users/:id/state", h.userState)
	r.Post("/users/:id/state", h.setUserState)
	r.Get("/users/:id/delete", h.confirmDeleteUser)
	r.Post("/users/:id/delete", h.deleteUser)
}

func groupName(p devices.GroupPath) string {
	if p == devices.Site {
		return "the whole site"
	}
	return string(p)
}

func (h *handler) users(c *fiber.Ctx) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v := pages.AdminUsers{AdminPage: h.page(c, "users", "Users"), After: asked(c, "after"), May: caller.SiteAdmin()}
	list, err := h.Inventory.Users(ctx, caller, devices.Page{After: v.After})
	if err != nil {
		return err
	}
	bindings, err := h.Inventory.Bindings(ctx, caller, devices.Site, "", "")
	if err != nil {
		return err
	}
	for _, u := range list.Items {
		row := pages.AdminUserRow{User: u}
		for _, b := range bindings {
			if b.User == u.ID {
				row.Roles = append(row.Roles, string(b.Role)+" of "+groupName(b.Group))
			}
		}
		v.Users = append(v.Users, row)
	}
	v.Next = list.Next
	return render(c, fiber.StatusOK, pages.AdminUsersPage(v))
}

func (h *handler) newUserBox(c *fiber.Ctx) (pages.AdminUserNew, error) {
	groups, err := h.groups(c)
	return pages.AdminUserNew{Box: h.box(c, "users", "New user", "/admin/users", "/admin/users", "Create user"), Role: string(devices.Viewer), Groups: groups}, err
}

func (h *handler) newUser(c *fiber.Ctx) error {
	if !auth.Caller(c).SiteAdmin() {
		return devices.ErrForbidden
	}
	v, err := h.newUserBox(c)
	if err != nil {
		return err
	}
	v.Group = first(v.Groups)
	return render(c, fiber.StatusOK, pages.AdminUserNewPage(v))
}

func (h *handler) createUser(c *fiber.Ctx) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v, err := h.newUserBox(c)
	if err != nil {
		return err
	}
	v.Email, v.Name, v.Role, v.Group = value(c, "email"), value(c, "name"), value(c, "role"), value(c, "group")
	password := string(c.Context().PostArgs().Peek("password"))
	err = devices.Role(v.Role).Validate()
	if err == nil {
		var u devices.User
		if u, err = h.Inventory.CreateUser(ctx, caller, devices.User{Email: v.Email, Name: v.Name}, password); err == nil {
			if _, err := h.Inventory.CreateBinding(ctx, caller, devices.Binding{User: u.ID, Group: devices.GroupPath(v.Group), Role: devices.Role(v.Role)}); err != nil {
				return done(c, "/admin/users/"+u.ID, "The user was created, but the role could not be given: "+err.Error())
			}
			return done(c, "/admin/users/"+u.ID, "User "+u.Email+" was created.")
		}
	}
	e, status, ok := faults(err)
	switch {
	case errors.Is(err, devices.ErrExists):
		e = pages.Errors{"email": "A user with this e-mail exists already."}
	case !ok:
		return err
	}
	v.Errors = e
	return render(c, status, pages.AdminUserNewPage(v))
}

func (h *handler) user(c *fiber.Ctx) error { return h.showUser(c, fiber.StatusOK, nil) }

func (h *handler) showUser(c *fiber.Ctx, status int, change func(*pages.AdminUser)) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	u, err := h.Inventory.User(ctx, caller, param(c, "id"))
	if err != nil {
		return err
	}
	v := pages.AdminUser{AdminPage: h.page(c, "users", u.Email), Account: u, Form: pages.UserForm{Email: u.Email, Name: u.Name}, May: caller.SiteAdmin(),
		Self: caller.Kind == devices.UserPrincipal && caller.ID == u.ID}
	if v.Groups, err = h.groups(c); err != nil {
		return err
	}
	bindings, err := h.Inventory.Bindings(ctx, caller, devices.Site, u.ID, "")
	if err != nil {
		return err
	}
	for _, b := range bindings {
		v.Bindings = append(v.Bindings, pages.BindingRow{Binding: b, Who: u.Email})
	}
	v.Binding = pages.BindingForm{Role: string(devices.Viewer), Group: first(v.Groups)}
	if change != nil {
		change(&v)
	}
	return render(c, status, pages.AdminUserPage(v))
}

func (h *handler) updateUser(c *fiber.Ctx) error {
	f := pages.UserForm{Email: value(c, "email"), Name: value(c, "name")}
	id := param(c, "id")
	_, err := h.Inventory.UpdateUser(c.UserContext(), auth.Caller(c), id, inventory.UserPatch{Name: &f.Name, Email: &f.Email})
	if err == nil {
		return done(c, "/admin/users/"+id, "Saved.")
	}
	e, status, ok := faults(err)
	switch {
	case errors.Is(err, devices.ErrExists):
		e = pages.Errors{"email": "Another user has this e-mail."}
	case !ok:
		return err
	}
	return h.showUser(c, status, func(v *pages.AdminUser) { v.Form, v.Errors = f, e })
}

func (h *handler) resetPassword(c *fiber.Ctx) error {
	id := param(c, "id")
	password := string(c.Context().PostArgs().Peek("password"))
	_, err := h.Inventory.UpdateUser(c.UserContext(), auth.Caller(c), id, inventory.UserPatch{Password: &password})
	if err == nil {
		return done(c, "/admin/users/"+id, "The password was reset.")
	}
	e, status, ok := faults(err)
	if !ok {
		return err
	}
	if e[""] != "" {
		e = pages.Errors{"password": e[""]}
	}
	return h.showUser(c, status, func(v *pages.AdminUser) { v.Errors = e })
}

func (h *handler) userBox(c *fiber.Ctx, what, action, submit string) (pages.AdminConfirm, devices.User, error) {
	if !auth.Caller(c).SiteAdmin() {
		return pages.AdminConfirm{}, devices.User{}, devices.ErrForbidden
	}
	u, err := h.Inventory.User(c.UserContext(), auth.Caller(c), param(c, "id"))
	if err != nil {
		return pages.AdminConfirm{}, u, err
	}
	return pages.AdminConfirm{Box: h.box(c, "users", what+" "+u.Email+"?", "/admin/users/"+u.ID+action, "/admin/users/"+u.ID, submit)}, u, nil
}

func (h *handler) userStateBox(c *fiber.Ctx) (pages.AdminConfirm, devices.User, bool, error) {
	disable := targetState(c) == devices.Disabled
	if disable {
		q, u, err := h.userBox(c, "Disable", "/state?to=disabled", "Disable")
		q.Lost = []string{"Sessions end at once, also open live pages.", "Signing in is refused."}
		q.Stays = "Roles are kept. You can enable the user again."
		return q, u, disable, err
	}
	q, u, err := h.userBox(c, "Enable", "/state?to=active", "Enable")
	q.Stays = "The user may sign in again, with the roles it has."
	return q, u, disable, err
}

func (h *handler) userState(c *fiber.Ctx) error {
	q, _, _, err := h.userStateBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) setUserState(c *fiber.Ctx) error {
	q, u, disable, err := h.userStateBox(c)
	if err != nil {
		return err
	}
	if _, err := h.Inventory.UpdateUser(c.UserContext(), auth.Caller(c), u.ID, inventory.UserPatch{Disabled: &disable}); err != nil {
		return confirmAgain(c, q, err)
	}
	if disable {
		return done(c, "/admin/users/"+u.ID, "Disabled: sessions have ended.")
	}
	return done(c, "/admin/users/"+u.ID, "Enabled.")
}

func (h *handler) deleteUserBox(c *fiber.Ctx) (pages.AdminConfirm, devices.User, error) {
	q, u, err := h.userBox(c, "Delete", "/delete", "Delete user")
	q.Danger, q.Type = true, u.Email
	q.Lost = []string{"The account and its roles.", "Sessions end at once, also open live pages."}
	q.Stays = "What this user did stays in the audit."
	return q, u, err
}

func (h *handler) confirmDeleteUser(c *fiber.Ctx) error {
	q, _, err := h.deleteUserBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) deleteUser(c *fiber.Ctx) error {
	q, u, err := h.deleteUserBox(c)
	if err != nil {
		return err
	}
	if err = typed(c, &q); err == nil {
		err = h.Inventory.DeleteUser(c.UserContext(), auth.Caller(c), u.ID)
	}
	if err != nil {
		return confirmAgain(c, q, err)
	}
	return done(c, "/admin/users", "User "+u.Email+" was deleted.")
}

// names are what people call the principals in bindings, as far as the caller may know.
type names struct {
	users  map[string]devices.User
	tokens map[string]devices.APIToken
}

func (h *handler) names(ctx context.Context, caller inventory.Caller) (names, error) {
	n := names{users: map[string]devices.User{}, tokens: map[string]devices.APIToken{}}
	for after := ""; ; {
		list, err := h.Inventory.Users(ctx, caller, devices.Page{After: after, Limit: devices.MaxPage})
		if err != nil {
			return n, err
		}
		for _, u := range list.Items {
			n.users[u.ID] = u
		}
		if after = list.Next; after == "" {
			break
		}
	}
	for after := ""; ; {
		list, err := h.Inventory.Tokens(ctx, caller, devices.Page{After: after, Limit: devices.MaxPage})
		if err != nil {
			return n, err
		}
		for _, t := range list.Items {
			n.tokens[t.ID] = t
		}
		if after = list.Next; after == "" {
			return n, nil
		}
	}
}

func (n names) emails() []string {
	var out []string
	for _, u := range n.users {
		out = append(out, u.Email)
	}
	slices.Sort(out)
	return out
}

// rows names bindings, sorted by group and name.
func (n names) rows(bindings []devices.Binding) []pages.BindingRow {
	var rows []pages.BindingRow
	for _, b := range bindings {
		row := pages.BindingRow{Binding: b, IsToken: b.Token != ""}
		if u, ok := n.users[b.User]; ok {
			row.Who, row.Href, row.Off = u.Email, "/admin/users/"+u.ID, u.Disabled
		} else if t, ok := n.tokens[b.Token]; ok {
			row.Who, row.Off = t.Name, t.Expires != nil && t.Expires.Before(now())
		} else {
			row.Who = "somebody you can't see"
		}
		rows = append(rows, row)
	}
	sort.SliceStable(rows, func(i, j int) bool {
		if rows[i].Group != rows[j].Group {
			return rows[i].Group < rows[j].Group
		}
		return rows[i].Who < rows[j].Who
	})
	return rows
}
