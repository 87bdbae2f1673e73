package operator

import (
	"errors"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
)

func (h *handler) loginForm(c *fiber.Ctx) error {
	next := nextOf(c.Query("next"))
	if auth.Caller(c).Principal != nil {
		return c.Redirect(next, fiber.StatusSeeOther)
	}
	return Render(c, fiber.StatusOK, pages.Login(Page(c, "Sign in"), pages.LoginData{Next: next}))
}

func (h *handler) login(c *fiber.Ctx) error {
	d := pages.LoginData{Email: strings.TrimSpace(utils.CopyString(c.FormValue("email"))), Next: nextOf(c.FormValue("next"))}
	err := h.Auth.SignIn(c, d.Email, utils.CopyString(c.FormValue("password")))
	status := fiber.StatusUnprocessableEntity
	switch {
	case err == nil:
		return c.Redirect(d.Next, fiber.StatusSeeOther)
	case errors.Is(err, devices.ErrUnauthorized), errors.Is(err, devices.ErrInvalid):
		d.Error = "E-mail or password is wrong."
	case errors.Is(err, devices.ErrRate):
		status = fiber.StatusTooManyRequests
		d.Error = "Too many tries. Wait a minute, then try again."
	case errors.Is(err, devices.ErrUnavailable):
		status = fiber.StatusServiceUnavailable
		d.Error = "Millrace can't reach its database right now. Try again in a moment."
	default:
		return err
	}
	return Render(c, status, pages.Login(Page(c, "Sign in"), d))
}

// logoutForm is for those who type the address: signing out by a mere link would let any page do it.
func (h *handler) logoutForm(c *fiber.Ctx) error { return c.Redirect("/", fiber.StatusSeeOther) }

func (h *handler) logout(c *fiber.Ctx) error {
	// The cookie is gone in any case, which is what was asked for; a session that can't be deleted now expires by itself.
	if err := h.Auth.SignOut(c); err != nil && !errors.Is(err, devices.ErrUnavailable) && !errors.Is(err, devices.ErrUnauthorized) && !errors.Is(err, devices.ErrNotFound) {
		return err
	}
	return c.Redirect("/login", fiber.StatusSeeOther)
}

func (h *handler) account(c *fiber.Ctx) error {
	return h.renderAccount(c, fiber.StatusOK, pages.AccountData{Saved: c.Query("saved") != ""})
}

func (h *handler) renderAccount(c *fiber.Ctx, status int, d pages.AccountData) error {
	d.Roles = auth.Caller(c).Bindings
	return Render(c, status, pages.Account(Page(c, "Account"), d))
}

func (h *handler) changePassword(c *fiber.Ctx) error {
	old, fresh := utils.CopyString(c.FormValue("old")), utils.CopyString(c.FormValue("new"))
	wrong := map[string]string{}
	switch {
	case len(fresh) < devices.MinPassword:
		wrong["new"] = "It has fewer than 10 characters. Length is what makes a password hard to guess."
	case c.FormValue("again") != fresh:
		wrong["again"] = "It differs from the new password above."
	}
	if len(wrong) == 0 {
		err := h.Inventory.ChangePassword(c.UserContext(), auth.Caller(c), old, fresh)
		switch field, _ := errors.AsType[*devices.FieldError](err); {
		case err == nil:
			return c.Redirect("/account?saved=1", fiber.StatusSeeOther)
		case field != nil && (field.Field == "old" || field.Field == "oldPassword"):
			wrong["old"] = "It " + field.Reason + "."
		case field != nil:
			wrong["new"] = "It " + field.Reason + "."
		case errors.Is(err, devices.ErrUnauthorized):
			wrong["old"] = "It is not your present password."
		case errors.Is(err, devices.ErrRate):
			wrong[""] = "Too many tries. Wait a minute, then try again."
		default:
			return err
		}
	}
	return h.renderAccount(c, fiber.StatusUnprocessableEntity, pages.AccountData{Errors: wrong})
}

// nextOf lets through only paths of our own.
func nextOf(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n") || strings.HasPrefix(next, "/login") || strings.HasPrefix(next, "/logout") {
		return "/"
	}
	return utils.CopyString(next)
}
