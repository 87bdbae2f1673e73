// Package operator serves the pages that operators look at: home, the live page of a group, the page of a device, sign-in
// and one's account. It asks the inventory what the caller may see and hands data to dashboard/pages; the live values
// themselves reach the browser through /live.
package operator

import (
	"context"
	"net"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/inventory"
	"millrace/web"
)

// Inventory is what the pages ask for with the caller's rights. *inventory.Inventory is it.
type Inventory interface {
	Groups(ctx context.Context, c inventory.Caller) ([]devices.Group, error)
	Group(ctx context.Context, c inventory.Caller, path devices.GroupPath) (devices.Group, error)
	Device(ctx context.Context, c inventory.Caller, id devices.ID) (devices.Device, error)
	ChangePassword(ctx context.Context, c inventory.Caller, old, new string) error
}

// Engine tells what is live. The program adapts the fanout engine to it.
type Engine interface {
	GroupStats(p devices.GroupPath) GroupStats
	// LastValues answers one value for each id, in order.
	LastValues(ids []devices.SeriesID) []LastValue
}

// GroupStats is what the home page shows of a group beside its inventory.
type GroupStats struct {
	Series, Stale int
	Rate          float64 // samples a second
	LastSample    int64   // receive time, Unix milliseconds; 0: none
}

// A LastValue is the present value of a series.
type LastValue struct {
	devices.Sample
	OK bool // it has a value
}

// Deps are what the pages are made of.
type Deps struct {
	Auth      *auth.Auth
	Inventory Inventory
	Catalog   *catalog.Catalog
	Engine    Engine
	MQTTPort  string           // of the embedded broker, for the commands that pages offer; "" if there is none
	Now       func() time.Time // nil: time.Now
}

// firstRows is how many values the server's own answer shows before the live view takes over.
const firstRows = 40

type handler struct{ Deps }

// Register adds the pages to r, which must already have Auth.Middleware and serve web.Handler.
func Register(r fiber.Router, d Deps) {
	if d.Now == nil {
		d.Now = time.Now
	}
	h := &handler{d}
	r.Get("/favicon.ico", func(c *fiber.Ctx) error { return c.Redirect(web.Path("icon.svg"), fiber.StatusFound) })
	r.Get("/login", h.loginForm)
	r.Post("/login", h.login)
	r.Post("/logout", h.logout)
	r.Get("/logout", h.logoutForm)
	r.Get("/", signedIn(h.home))
	r.Get("/g", func(c *fiber.Ctx) error { return c.Redirect("/", fiber.StatusFound) })
	r.Get("/g/*", signedIn(h.group))
	r.Get("/devices/:id", signedIn(h.device))
	r.Get("/trends", signedIn(h.trends))
	r.Get("/account", signedIn(h.account))
	r.Post("/account", signedIn(h.changePassword))
}

// signedIn lets nobody else pass: the app sends such browsers to the form, and back afterwards.
func signedIn(f fiber.Handler) fiber.Handler {
	return func(c *fiber.Ctx) error {
		if auth.Caller(c).Principal == nil {
			return devices.ErrUnauthorized
		}
		return f(c)
	}
}

// Page returns what Layout needs for this request. The title is also the last crumb unless Trail is set.
func Page(c *fiber.Ctx, title string) pages.Page {
	p := pages.Page{
		Title: title,
		CSRF:  auth.CSRF(c),
		Theme: pages.Theme(utils.CopyString(c.Cookies(pages.ThemeCookie))),
		Asset: web.Path,
	}
	if caller := auth.Caller(c); caller.Principal != nil {
		p.User = &pages.User{Email: caller.Name, Admin: caller.CanSomewhere(devices.Admin)}
	}
	return p
}

// Render writes a component as the answer. Pages hold what is only for this person at this moment: nobody keeps them.
func Render(c *fiber.Ctx, status int, component templ.Component) error {
	c.Status(status)
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	c.Set(fiber.HeaderCacheControl, "no-store")
	return component.Render(c.UserContext(), c.Response().BodyWriter())
}

// ErrorPage answers an error with a page that says what, why, and what to do. Detail is the problem document's text.
func ErrorPage(c *fiber.Ctx, status int, detail, request string) error {
	d := pages.ErrorData{Status: status, Text: detail}
	switch status {
	case fiber.StatusNotFound:
		d.Title = "There is nothing here"
		d.Text = "It does not exist, it was removed, or you may not see it. If you should see it, ask an admin for the role viewer there."
	case fiber.StatusForbidden:
		d.Title = "You may not do that"
		if detail == "" || detail == devices.ErrForbidden.Error() {
			d.Text = "It needs a role that you don't have there. An admin of the group can give it to you."
		}
	case fiber.StatusUnauthorized:
		d.Title = "You are not signed in"
		d.Text = "Your session has ended, or you signed out in another tab. Nothing was changed."
	case fiber.StatusMethodNotAllowed:
		d.Title = "That can't be done here"
		d.Text = "This address is there, but not for this kind of request."
	case fiber.StatusConflict:
		d.Title = "It is in the way of something else"
	case fiber.StatusRequestEntityTooLarge:
		d.Title = "That is too large"
	case fiber.StatusTooManyRequests:
		d.Title = "Too many requests"
		d.Text = "Wait a minute, then try again."
	case fiber.StatusServiceUnavailable:
		d.Title = "A part of Millrace does not answer"
		d.Text = "Its database, most likely. Devices still get their measurements in. Try again in a moment."
	default:
		d.Title = "That could not be understood"
		if status >= 500 {
			d.Title = "Something went wrong in Millrace"
			d.Text = "It is not your fault, and it is in the server's log. Try again; if it happens again, tell an admin what you did."
		}
	}
	if status >= 500 {
		d.Request = request
	}
	return Render(c, status, pages.Error(Page(c, d.Title), d))
}

// hostOf is the host by which the browser reached us, without a port.
func hostOf(c *fiber.Ctx) string {
	host := utils.CopyString(c.Hostname())
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

func (h *handler) mqtt(c *fiber.Ctx) string {
	if h.MQTTPort == "" {
		return ""
	}
	return hostOf(c) + ":" + h.MQTTPort
}

func base(c *fiber.Ctx) string { return utils.CopyString(c.BaseURL()) }
