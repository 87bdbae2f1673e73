package admin

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/inventory"
)

func (h *handler) accessRoutes(r fiber.Router) {
	r.Get("/access", h.access)
	r.Post("/access", h.createBinding)
	r.Get("/access/who", h.who)
	r.Get("/access/:id/delete", h.confirmDeleteBinding)
	r.Post("/access/:id/delete", h.deleteBinding)
}

func (h *handler) access(c *fiber.Ctx) error {
	f := pages.BindingForm{Role: string(devices.Viewer), Group: asked(c, "group")}
	if f.Group == "" {
		groups, err := h.groups(c)
		if err != nil {
			return err
		}
		f.Group = first(groups)
	}
	return h.showAccess(c, fiber.StatusOK, f, nil)
}

func (h *handler) showAccess(c *fiber.Ctx, status int, f pages.BindingForm, e pages.Errors) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v := pages.AdminAccess{AdminPage: h.page(c, "access", "Access"), Group: asked(c, "group"), Form: f}
	v.Errors = e
	bindings, err := h.Inventory.Bindings(ctx, caller, devices.GroupPath(v.Group), "", "")
	if err != nil {
		return err
	}
	n, err := h.names(ctx, caller)
	if err != nil {
		return err
	}
	v.Bindings, v.Users = n.rows(bindings), n.emails()
	if v.Groups, err = h.groups(c); err != nil {
		return err
	}
	return render(c, status, pages.AdminAccessPage(v))
}

func (h *handler) createBinding(c *fiber.Ctx) error {
	f := pages.BindingForm{Who: value(c, "who"), Group: value(c, "group"), Role: value(c, "role")}
	back := value(c, "back")
	if !strings.HasPrefix(back, "/admin/") {
		back = "/admin/access"
	}
	var err error
	if f.Who == "" {
		err = devices.Invalid("user", "is empty: whom do you mean?")
	} else {
		b := devices.Binding{User: f.Who, Group: devices.GroupPath(f.Group), Role: devices.Role(f.Role)}
		_, err = h.Inventory.CreateBinding(c.UserContext(), auth.Caller(c), b)
	}
	if err == nil {
		return done(c, back, fmt.Sprintf("%s is %s of %s now.", f.Who, f.Role, groupName(devices.GroupPath(f.Group))))
	}
	e, status, ok := faults(err, "path", "group")
	switch {
	case errors.Is(err, devices.ErrExists):
		e = pages.Errors{"": f.Who + " has this role there already."}
	case errors.Is(err, devices.ErrNotFound):
		e, status = pages.Errors{"user": "There is no such user or group."}, fiber.StatusUnprocessableEntity
	case errors.Is(err, devices.ErrForbidden):
		e = pages.Errors{"group": "You may give roles only in groups that you manage."}
	case !ok:
		return err
	}
	return h.showAccess(c, status, f, e)
}

func (h *handler) bindingBox(c *fiber.Ctx) (pages.AdminConfirm, string, error) {
	ctx, caller, id := c.UserContext(), auth.Caller(c), param(c, "id")
	bindings, err := h.Inventory.Bindings(ctx, caller, devices.Site, "", "")
	if err != nil {
		return pages.AdminConfirm{}, id, err
	}
	i := slices.IndexFunc(bindings, func(b devices.Binding) bool { return b.ID == id })
	if i < 0 {
		return pages.AdminConfirm{}, id, fmt.Errorf("binding %s: %w", id, devices.ErrNotFound)
	}
	n, err := h.names(ctx, caller)
	if err != nil {
		return pages.AdminConfirm{}, id, err
	}
	row := n.rows(bindings[i : i+1])[0]
	b := h.box(c, "access", fmt.Sprintf("Take the role %s of %s from %s?", row.Role, groupName(row.Group), row.Who), "/admin/access/"+url.PathEscape(id)+"/delete", "/admin/access", "Take it away")
	b.Danger = true
	return pages.AdminConfirm{Box: b, Lost: []string{"What it gave ends at once, also on open pages and connections."}, Stays: "Roles in other groups stay."}, id, nil
}

func (h *handler) confirmDeleteBinding(c *fiber.Ctx) error {
	q, _, err := h.bindingBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) deleteBinding(c *fiber.Ctx) error {
	q, id, err := h.bindingBox(c)
	if err != nil {
		return err
	}
	if err := h.Inventory.DeleteBinding(c.UserContext(), auth.Caller(c), id); err != nil {
		return confirmAgain(c, q, err)
	}
	return done(c, "/admin/access", "The role was taken away.")
}

// who answers who may see a group: for each the binding that gives the most.
func (h *handler) who(c *fiber.Ctx) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v := pages.AdminWho{AdminPage: h.page(c, "access", "Who may see a group?"), Group: asked(c, "group"), Above: !caller.SiteAdmin()}
	var err error
	if v.Groups, err = h.groups(c); err != nil {
		return err
	}
	if v.Group != "" {
		g := devices.GroupPath(v.Group)
		if !caller.Can(devices.Admin, g) {
			return fmt.Errorf("group %s: %w", g, devices.ErrNotFound)
		}
		bindings, err := h.Inventory.Bindings(ctx, caller, devices.Site, "", "")
		if err != nil {
			return err
		}
		n, err := h.names(ctx, caller)
		if err != nil {
			return err
		}
		best := map[string]devices.Binding{}
		for _, b := range bindings {
			who := b.User + "/" + b.Token
			old, has := best[who]
			if b.Group.Contains(g) && b.Role.Includes(devices.Viewer) && (!has || b.Role.Includes(old.Role)) {
				best[who] = b
			}
		}
		all := make([]devices.Binding, 0, len(best))
		for _, b := range best {
			all = append(all, b)
		}
		for _, row := range n.rows(all) {
			if !row.Off {
				v.Rows = append(v.Rows, row)
			}
		}
	}
	return render(c, fiber.StatusOK, pages.AdminWhoPage(v))
}

func (h *handler) tokenRoutes(r fiber.Router) {
	r.Get("/tokens", h.tokens)
	r.Post("/tokens", h.createToken)
	r.Get("/tokens/:id/delete", h.confirmDeleteToken)
	r.Post("/tokens/:id/delete", h.deleteToken)
}

func (h *handler) tokens(c *fiber.Ctx) error {
	return h.showTokens(c, fiber.StatusOK, func(v *pages.AdminTokens) {
		v.Form.Role, v.Form.Group = string(devices.Viewer), first(v.Groups)
	})
}

func (h *handler) showTokens(c *fiber.Ctx, status int, change func(*pages.AdminTokens)) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v := pages.AdminTokens{AdminPage: h.page(c, "tokens", "API tokens"), After: asked(c, "after"), HTTP: h.endpoints(c).HTTP}
	list, err := h.Inventory.Tokens(ctx, caller, devices.Page{After: v.After})
	if err != nil {
		return err
	}
	v.Tokens, v.Next = list.Items, list.Next
	if v.Groups, err = h.groups(c); err != nil {
		return err
	}
	change(&v)
	return render(c, status, pages.AdminTokensPage(v))
}

func (h *handler) createToken(c *fiber.Ctx) error {
	f := pages.TokenForm{Name: value(c, "name"), Role: value(c, "role"), Group: value(c, "group"), Expires: value(c, "expires")}
	expires, err := day("expires", f.Expires)
	if err == nil {
		r := inventory.TokenRequest{Name: f.Name, Role: devices.Role(f.Role), Group: devices.GroupPath(f.Group), Expires: expires}
		var t devices.APIToken
		var secret string
		if t, secret, err = h.Inventory.CreateToken(c.UserContext(), auth.Caller(c), r); err == nil {
			return h.showTokens(c, fiber.StatusCreated, func(v *pages.AdminTokens) {
				v.Secret, v.Made, v.Note, v.Form.Role = secret, t.Name, "The token was created.", string(devices.Viewer)
				v.Form.Group = first(v.Groups)
			})
		}
	}
	e, status, ok := faults(err, "path", "group")
	switch {
	case errors.Is(err, devices.ErrNotFound), errors.Is(err, devices.ErrForbidden):
		e, status = pages.Errors{"group": "Choose a group that you manage."}, fiber.StatusUnprocessableEntity
	case !ok:
		return err
	}
	return h.showTokens(c, status, func(v *pages.AdminTokens) { v.Form, v.Errors = f, e })
}

func (h *handler) tokenBox(c *fiber.Ctx) (pages.AdminConfirm, string, error) {
	ctx, caller, id := c.UserContext(), auth.Caller(c), param(c, "id")
	n, err := h.names(ctx, caller)
	if err != nil {
		return pages.AdminConfirm{}, id, err
	}
	t, ok := n.tokens[id]
	if !ok {
		return pages.AdminConfirm{}, id, fmt.Errorf("token %s: %w", id, devices.ErrNotFound)
	}
	b := h.box(c, "tokens", "Revoke the token "+t.Name+"?", "/admin/tokens/"+url.PathEscape(id)+"/delete", "/admin/tokens", "Revoke")
	b.Danger = true
	q := pages.AdminConfirm{Box: b, Lost: []string{"Programs that use it are refused at once; their open connections end."}, Stays: "This can't be undone: make a new token instead."}
	return q, id, nil
}

func (h *handler) confirmDeleteToken(c *fiber.Ctx) error {
	q, _, err := h.tokenBox(c)
	if err != nil {
		return err
	}
	return render(c, fiber.StatusOK, pages.AdminConfirmPage(q))
}

func (h *handler) deleteToken(c *fiber.Ctx) error {
	q, id, err := h.tokenBox(c)
	if err != nil {
		return err
	}
	if err := h.Inventory.DeleteToken(c.UserContext(), auth.Caller(c), id); err != nil {
		return confirmAgain(c, q, err)
	}
	return done(c, "/admin/tokens", "The token was revoked.")
}
