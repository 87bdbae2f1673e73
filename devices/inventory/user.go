package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/devices"
)

// Users returns a page, by e-mail, for admins: those of a group need it to give rights.
func (v *Inventory) Users(ctx context.Context, c Caller, p devices.Page) (devices.List[devices.User], error) {
	if err := signedIn(c); err != nil {
		return devices.List[devices.User]{}, err
	}
	if !c.CanSomewhere(devices.Admin) {
		return devices.List[devices.User]{}, devices.ErrForbidden
	}
	return v.store.Users(ctx, p)
}

// User returns one, for admins and the user.
func (v *Inventory) User(ctx context.Context, c Caller, id string) (devices.User, error) {
	if err := signedIn(c); err != nil {
		return devices.User{}, err
	}
	if !c.CanSomewhere(devices.Admin) && !c.is(id) {
		return devices.User{}, fmt.Errorf("user %s: %w", id, devices.ErrNotFound)
	}
	return v.store.User(ctx, id)
}

// is reports whether the caller is this user.
func (c Caller) is(user string) bool { return c.Kind == devices.UserPrincipal && c.ID == user }

// CreateUser adds a user without any right; site admins only.
func (v *Inventory) CreateUser(ctx context.Context, c Caller, u devices.User, password string) (devices.User, error) {
	if err := needSite(c); err != nil {
		return devices.User{}, err
	}
	u.Email = normal(u.Email)
	if err := u.Validate(); err != nil {
		return devices.User{}, err
	}
	var err error
	if u.PasswordHash, err = v.hashPassword(ctx, password); err != nil {
		return devices.User{}, err
	}
	if u, err = v.store.CreateUser(ctx, c.Actor(), u); err != nil {
		return devices.User{}, err
	}
	return u, v.apply(ctx, accessChanged)
}

// UpdateUser changes one; site admins, and users their own name. A new password or disabling signs the user out everywhere.
func (v *Inventory) UpdateUser(ctx context.Context, c Caller, id string, p UserPatch) (devices.User, error) {
	if err := signedIn(c); err != nil {
		return devices.User{}, err
	}
	own := c.is(id) && p.Email == nil && p.Disabled == nil && p.Password == nil
	if !c.SiteAdmin() && !own {
		return devices.User{}, refusal(c.CanSomewhere(devices.Admin) || c.is(id))
	}
	var password string
	if p.Password != nil {
		var err error
		if password, err = v.hashPassword(ctx, *p.Password); err != nil {
			return devices.User{}, err
		}
	}
	end := p.Password != nil || p.Disabled != nil && *p.Disabled
	u, err := v.store.UpdateUser(ctx, c.Actor(), id, func(u *devices.User) error {
		set(&u.Name, p.Name)
		set(&u.Disabled, p.Disabled)
		if p.Email != nil {
			u.Email = normal(*p.Email)
		}
		if password != "" {
			u.PasswordHash = password
		}
		return u.Validate()
	}, end, nil)
	if err != nil {
		return devices.User{}, err
	}
	if end {
		v.sessions.forget(id, nil)
	}
	return u, v.apply(ctx, accessChanged)
}

// DeleteUser deletes one with bindings and sessions; site admins only.
func (v *Inventory) DeleteUser(ctx context.Context, c Caller, id string) error {
	if err := needSite(c); err != nil {
		return err
	}
	if err := v.store.DeleteUser(ctx, c.Actor(), id); err != nil {
		return err
	}
	v.sessions.forget(id, nil)
	return v.apply(ctx, accessChanged)
}

// ChangePassword is for users themselves. It ends their sessions, but for the one the caller is in.
func (v *Inventory) ChangePassword(ctx context.Context, c Caller, old, new string) error {
	if err := signedIn(c); err != nil {
		return err
	}
	if c.Kind != devices.UserPrincipal {
		return devices.ErrForbidden
	}
	u, err := v.store.User(ctx, c.ID)
	if err != nil {
		return err
	}
	refund, err := v.throttle.take(time.Now(), u.Email, c.IP)
	if err != nil {
		return err
	}
	ok, err := v.checkPassword(ctx, u.PasswordHash, old)
	if err != nil {
		refund()
		return err
	}
	if !ok {
		return devices.Invalid("old", "is not your present password")
	}
	refund()
	hashed, err := v.hashPassword(ctx, new)
	if err != nil {
		if field, ok := errors.AsType[*devices.FieldError](err); ok {
			return devices.Invalid("new", "%s", field.Reason)
		}
		return err
	}
	if _, err := v.store.UpdateUser(ctx, c.Actor(), c.ID, func(u *devices.User) error { u.PasswordHash = hashed; return nil }, true, c.Session); err != nil {
		return err
	}
	v.sessions.forget(c.ID, c.Session)
	return nil
}

// Bindings returns those c may see (admin of their path; a user also their own), filtered by what is not empty; group matches
// itself and below.
func (v *Inventory) Bindings(ctx context.Context, c Caller, group devices.GroupPath, user, token string) ([]devices.Binding, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	if !c.CanSomewhere(devices.Admin) && !c.is(user) {
		return nil, devices.ErrForbidden
	}
	found, err := v.store.Bindings(ctx, group, user, token)
	if err != nil {
		return nil, err
	}
	hidden := make(map[string]bool) // tokens that are in no list have no bindings in any, either
	return slices.DeleteFunc(found, func(b devices.Binding) bool {
		if b.Token != "" {
			if _, asked := hidden[b.Token]; !asked {
				_, err := v.store.Token(ctx, b.Token)
				hidden[b.Token] = errors.Is(err, devices.ErrNotFound)
			}
			if hidden[b.Token] {
				return true
			}
		}
		return !c.Can(devices.Admin, b.Group) && !c.is(b.User)
	}), nil
}

// CreateBinding takes a user by id or e-mail; the caller must be admin of the path, and so holds every role it can give.
func (v *Inventory) CreateBinding(ctx context.Context, c Caller, b devices.Binding) (devices.Binding, error) {
	if err := signedIn(c); err != nil {
		return devices.Binding{}, err
	}
	if !c.CanSomewhere(devices.Admin) {
		return devices.Binding{}, devices.ErrForbidden
	}
	if err := validPlace(b.Role, b.Group); err != nil {
		return devices.Binding{}, err
	}
	if (b.User == "") == (b.Token == "") {
		return devices.Binding{}, devices.Invalid("user", "or token must be given, and not both")
	}
	if !c.Can(devices.Admin, b.Group) {
		return devices.Binding{}, fmt.Errorf("rights on %q: %w", b.Group, devices.ErrForbidden)
	}
	if strings.Contains(b.User, "@") {
		u, err := v.store.UserByEmail(ctx, normal(b.User))
		if err != nil {
			return devices.Binding{}, missing("user", err)
		}
		b.User = u.ID
	} else if b.User != "" {
		if _, err := v.store.User(ctx, b.User); err != nil {
			return devices.Binding{}, missing("user", err)
		}
	}
	if b.Token != "" {
		t, err := v.store.Token(ctx, b.Token)
		if err == nil && !c.Can(devices.Admin, t.Group) { // else its owners would gain rights from somebody who can't see it
			err = devices.ErrNotFound
		}
		if err != nil {
			return devices.Binding{}, missing("token", err)
		}
	}
	b, err := v.store.CreateBinding(ctx, c.Actor(), b)
	if err != nil {
		return devices.Binding{}, missing("group", err)
	}
	return b, v.apply(ctx, accessChanged)
}

// missing makes of something a request names but is not there a fault of the request.
func missing(field string, err error) error {
	if errors.Is(err, devices.ErrNotFound) {
		return devices.Invalid(field, "is not there")
	}
	return err
}

// validPlace checks a role and the path it is given on.
func validPlace(role devices.Role, group devices.GroupPath) error {
	if err := role.Validate(); err != nil {
		return err
	}
	if group != devices.Site && group.Validate() != nil {
		return devices.Invalid("group", "%q is no group path such as plant1/line2; empty means the whole site", group)
	}
	return nil
}

// DeleteBinding takes a right away, at once.
func (v *Inventory) DeleteBinding(ctx context.Context, c Caller, id string) error {
	if err := signedIn(c); err != nil {
		return err
	}
	b, err := v.store.Binding(ctx, id)
	if err != nil {
		return err
	}
	if !c.Can(devices.Admin, b.Group) {
		return fmt.Errorf("binding %s: %w", id, refusal(c.is(b.User)))
	}
	if err := v.store.DeleteBinding(ctx, c.Actor(), id); err != nil {
		return err
	}
	return v.apply(ctx, accessChanged)
}

// Tokens returns a page of the API tokens made for groups the caller is admin of, by name.
func (v *Inventory) Tokens(ctx context.Context, c Caller, p devices.Page) (devices.List[devices.APIToken], error) {
	if err := signedIn(c); err != nil {
		return devices.List[devices.APIToken]{}, err
	}
	if !c.CanSomewhere(devices.Admin) {
		return devices.List[devices.APIToken]{}, devices.ErrForbidden
	}
	return v.store.Tokens(ctx, p, paths(c, devices.Admin))
}

// CreateToken returns an API token and its secret, shown this once. The caller must be admin of its group.
func (v *Inventory) CreateToken(ctx context.Context, c Caller, r TokenRequest) (devices.APIToken, string, error) {
	if err := signedIn(c); err != nil {
		return devices.APIToken{}, "", err
	}
	if !c.CanSomewhere(devices.Admin) {
		return devices.APIToken{}, "", devices.ErrForbidden
	}
	if r.Name = strings.TrimSpace(r.Name); r.Name == "" || len(r.Name) > 100 || strings.ContainsAny(r.Name, "/\x00") {
		return devices.APIToken{}, "", devices.Invalid("name", "must be 1 to 100 bytes without a slash")
	}
	if err := validPlace(r.Role, r.Group); err != nil {
		return devices.APIToken{}, "", err
	}
	if r.Expires != nil && !r.Expires.After(time.Now()) {
		return devices.APIToken{}, "", devices.Invalid("expires", "is in the past")
	}
	if !c.Can(devices.Admin, r.Group) {
		return devices.APIToken{}, "", fmt.Errorf("token on %q: %w", r.Group, devices.ErrForbidden)
	}
	secret := newSecret(apiTokenPrefix)
	t, err := v.store.CreateToken(ctx, c.Actor(), devices.APIToken{Name: r.Name, Role: r.Role, Group: r.Group, Expires: r.Expires, Hint: hint(secret), Hash: hash(secret)})
	if err != nil {
		return devices.APIToken{}, "", missing("group", err)
	}
	return t, secret, v.apply(ctx, accessChanged)
}

// DeleteToken revokes an API token, at once.
func (v *Inventory) DeleteToken(ctx context.Context, c Caller, id string) error {
	if err := signedIn(c); err != nil {
		return err
	}
	t, err := v.store.Token(ctx, id)
	if err != nil {
		return err
	}
	if !c.Can(devices.Admin, t.Group) {
		return fmt.Errorf("token %s: %w", id, devices.ErrNotFound)
	}
	if err := v.store.DeleteToken(ctx, c.Actor(), id); err != nil {
		return err
	}
	return v.apply(ctx, accessChanged)
}

// EnsureToken gives a site-admin API token the secret that was set from outside (--admin-token), and takes it from the one
// that had the name before; an empty secret revokes it. Lists don't show it. For the server itself.
func (v *Inventory) EnsureToken(ctx context.Context, name, secret string) error {
	t := devices.APIToken{Name: name, Role: devices.Admin, Group: devices.Site}
	if secret != "" {
		if len(secret) < 16 {
			return devices.Invalid("admin-token", "must have at least 16 characters")
		}
		t.Hash, t.Hint = hash(secret), hint(secret)
	}
	if err := v.store.EnsureToken(ctx, Caller{Principal: devices.System}.Actor(), t); err != nil {
		return err
	}
	return v.apply(ctx, accessChanged)
}

// Audit returns a page, newest first; site admins only.
func (v *Inventory) Audit(ctx context.Context, c Caller, f devices.AuditFilter) (devices.List[devices.AuditEntry], error) {
	if err := needSite(c); err != nil {
		return devices.List[devices.AuditEntry]{}, err
	}
	return v.store.Audit(ctx, f)
}

// normal is how e-mail addresses are kept.
func normal(email string) string { return strings.ToLower(strings.TrimSpace(email)) }

// Note writes into the audit what a site admin did beside the inventory.
func (v *Inventory) Note(ctx context.Context, c Caller, action, object string) error {
	if err := needSite(c); err != nil {
		return err
	}
	return v.store.AppendAudit(ctx, c.Actor(), action, object, nil)
}
