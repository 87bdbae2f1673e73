package api

import (
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/devices/inventory"
)

// me is who asks.
type me struct {
	Kind      devices.PrincipalKind `json:"kind"`
	ID        string                `json:"id"`
	Name      string                `json:"name"`
	SiteAdmin bool                  `json:"siteAdmin"`
	Bindings  []devices.Binding     `json:"bindings"`
	Expires   *time.Time            `json:"expires"`        // of the session or token; null: never
	CSRF      string                `json:"csrf,omitempty"` // of the session, for X-CSRF-Token
}

func (a *API) getMe(c *fiber.Ctx) error {
	who := auth.Caller(c)
	m := me{Kind: who.Kind, ID: who.ID, Name: who.Name, SiteAdmin: who.SiteAdmin(), Bindings: notNil(who.Bindings)}
	expires := who.Expires
	if s, ok := auth.Session(c); ok {
		m.CSRF, expires = s.CSRF, s.Expires
	}
	if !expires.IsZero() {
		m.Expires = &expires
	}
	return c.JSON(m)
}

func (a *API) changePassword(c *fiber.Ctx) error {
	var r struct {
		Old string `json:"old"`
		New string `json:"new"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	if auth.Caller(c).Kind != devices.UserPrincipal {
		return devices.ErrForbidden
	}
	return none(c, a.d.Inventory.ChangePassword(c.UserContext(), auth.Caller(c), r.Old, r.New))
}

func (a *API) listUsers(c *fiber.Ctx) error {
	p, err := page(c)
	if err != nil {
		return err
	}
	l, err := a.d.Inventory.Users(c.UserContext(), auth.Caller(c), p)
	return answer(c, listOf(l, same), err)
}

func (a *API) createUser(c *fiber.Ctx) error {
	var r struct {
		Email    string `json:"email"`
		Name     string `json:"name"`
		Password string `json:"password"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	u, err := a.d.Inventory.CreateUser(c.UserContext(), auth.Caller(c), devices.User{Email: r.Email, Name: r.Name}, r.Password)
	if err != nil {
		return err
	}
	return created(c, "/api/v1/users/"+url.PathEscape(u.ID), u)
}

func (a *API) getUser(c *fiber.Ctx) error {
	u, err := a.d.Inventory.User(c.UserContext(), auth.Caller(c), c.Params("id"))
	return answer(c, u, err)
}

func (a *API) patchUser(c *fiber.Ctx) error {
	var r struct {
		Name     *string `json:"name"`
		Email    *string `json:"email"`
		Disabled *bool   `json:"disabled"`
		Password *string `json:"password"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	u, err := a.d.Inventory.UpdateUser(c.UserContext(), auth.Caller(c), c.Params("id"), inventory.UserPatch(r))
	return answer(c, u, err)
}

func (a *API) deleteUser(c *fiber.Ctx) error {
	return none(c, a.d.Inventory.DeleteUser(c.UserContext(), auth.Caller(c), c.Params("id")))
}

func (a *API) listBindings(c *fiber.Ctx) error {
	l, err := a.d.Inventory.Bindings(c.UserContext(), auth.Caller(c), devices.GroupPath(c.Query("group")), c.Query("user"), c.Query("token"))
	return answer(c, list[devices.Binding]{Items: notNil(l)}, err)
}

func (a *API) createBinding(c *fiber.Ctx) error {
	var r struct {
		User  string            `json:"user"`
		Token string            `json:"token"`
		Group devices.GroupPath `json:"group"`
		Role  devices.Role      `json:"role"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	b, err := a.d.Inventory.CreateBinding(c.UserContext(), auth.Caller(c), devices.Binding{User: r.User, Token: r.Token, Group: r.Group, Role: r.Role})
	if err != nil {
		return err
	}
	return created(c, "/api/v1/bindings/"+url.PathEscape(b.ID), b)
}

func (a *API) deleteBinding(c *fiber.Ctx) error {
	return none(c, a.d.Inventory.DeleteBinding(c.UserContext(), auth.Caller(c), c.Params("id")))
}

// token is an APIToken over HTTP.
type token struct {
	devices.APIToken
	Token string `json:"token"` // the secret, this once
}

func (a *API) listTokens(c *fiber.Ctx) error {
	p, err := page(c)
	if err != nil {
		return err
	}
	l, err := a.d.Inventory.Tokens(c.UserContext(), auth.Caller(c), p)
	return answer(c, listOf(l, same), err)
}

func (a *API) createToken(c *fiber.Ctx) error {
	var r struct {
		Name    string            `json:"name"`
		Role    devices.Role      `json:"role"`
		Group   devices.GroupPath `json:"group"`
		Expires *time.Time        `json:"expires"`
	}
	if err := decode(c, &r); err != nil {
		return err
	}
	t, secret, err := a.d.Inventory.CreateToken(c.UserContext(), auth.Caller(c), inventory.TokenRequest(r))
	if err != nil {
		return err
	}
	return created(c, "/api/v1/tokens/"+url.PathEscape(t.ID), token{t, secret})
}

func (a *API) deleteToken(c *fiber.Ctx) error {
	return none(c, a.d.Inventory.DeleteToken(c.UserContext(), auth.Caller(c), c.Params("id")))
}

func (a *API) listAudit(c *fiber.Ctx) error {
	p, err := page(c)
	if err != nil {
		return err
	}
	l, err := a.d.Inventory.Audit(c.UserContext(), auth.Caller(c), devices.AuditFilter{Page: p, Actor: c.Query("actor"), Action: c.Query("action"), Object: c.Query("object")})
	return answer(c, listOf(l, same), err)
}
