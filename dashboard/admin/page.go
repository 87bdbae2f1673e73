package admin

import (
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/a-h/templ"
	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/inventory"
)

// noteCookie carries what has just been done over the redirect that follows a form.
const noteCookie = "millrace_note"

// page begins a page of a section. The last crumb is the title.
func (h *handler) page(c *fiber.Ctx, section, title string, trail ...pages.Crumb) pages.AdminPage {
	caller := auth.Caller(c)
	site := caller.SiteAdmin()
	p := pages.AdminPage{Section: section, SiteAdmin: site, Now: now()}
	p.Title, p.CSRF, p.Asset, p.HTMX, p.Script, p.Wide = title, auth.CSRF(c), h.Asset, true, "admin.js", true
	if p.Asset == nil {
		p.Asset = func(name string) string { return "/assets/" + name }
	}
	p.Theme = pages.Theme(c.Cookies(pages.ThemeCookie))
	p.User = &pages.User{Email: caller.Name, Admin: true}
	side := pages.SideSection{Title: "Administration", Items: []pages.SideItem{{Label: "Overview", Href: "/admin", Icon: "chart", Current: section == ""}}}
	p.Trail = []pages.Crumb{{Label: "Administration", Href: "/admin"}}
	for _, s := range pages.AdminSections {
		if s.SiteOnly && !site {
			continue
		}
		side.Items = append(side.Items, pages.SideItem{Label: s.Label, Href: "/admin/" + s.Key, Icon: s.Icon, Current: s.Key == section})
		if s.Key == section && section != "" {
			p.Trail = append(p.Trail, pages.Crumb{Label: s.Label, Href: "/admin/" + s.Key})
		}
	}
	p.Side = []pages.SideSection{side}
	p.Trail = append(p.Trail, trail...)
	if last := p.Trail[len(p.Trail)-1]; last.Label != title {
		if section == "" {
			p.Trail = p.Trail[:1]
		} else {
			p.Trail = append(p.Trail, pages.Crumb{Label: title})
		}
	}
	if note := c.Cookies(noteCookie); note != "" && c.Get("HX-Request") == "" {
		p.Note, _ = url.QueryUnescape(note)
		p.Note = strings.Clone(p.Note)
		c.Cookie(&fiber.Cookie{Name: noteCookie, Path: "/admin", Expires: time.Unix(1, 0), HTTPOnly: true, SameSite: fiber.CookieSameSiteLaxMode})
	}
	return p
}

// render answers with a page.
func render(c *fiber.Ctx, status int, page templ.Component) error {
	c.Status(status).Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	return page.Render(c.UserContext(), c.Response().BodyWriter())
}

// done goes to another page after a change, and says there what was done.
func done(c *fiber.Ctx, to, note string) error {
	c.Cookie(&fiber.Cookie{Name: noteCookie, Value: url.QueryEscape(note), Path: "/admin", MaxAge: 30, HTTPOnly: true,
		SameSite: fiber.CookieSameSiteLaxMode, Secure: c.Secure()})
	if c.Get("HX-Request") != "" {
		c.Set("HX-Redirect", to)
		return c.SendStatus(fiber.StatusNoContent)
	}
	return c.Redirect(to, fiber.StatusSeeOther)
}

// faults turns what a form got wrong into its messages and a status; ok is false for errors that are no fault of a form (not
// found, not signed in, a defect), which the app's error handler answers. rename maps fields of the domain to those of the form.
func faults(err error, rename ...string) (e pages.Errors, status int, ok bool) {
	if f, is := errors.AsType[*devices.FieldError](err); is {
		field := f.Field
		for i := 0; i+1 < len(rename); i += 2 {
			if rename[i] == field {
				field = rename[i+1]
			}
		}
		return pages.Errors{field: sentence(f.Reason)}, fiber.StatusUnprocessableEntity, true
	}
	text := ""
	switch {
	case errors.Is(err, devices.ErrForbidden):
		text = "You may not do that here: it takes the role admin in the groups concerned. Nothing was changed."
	case errors.Is(err, devices.ErrExists):
		text = "That exists already. Nothing was changed."
	case errors.Is(err, devices.ErrStale):
		text = "Somebody else has changed this meanwhile. Load the page again; nothing was changed."
	case errors.Is(err, devices.ErrUnavailable):
		text = "The database does not answer. Nothing was changed; try again in a moment."
	case errors.Is(err, devices.ErrInvalid), errors.Is(err, devices.ErrTooLarge):
		text = sentence(err.Error())
	default:
		return nil, 0, false
	}
	return pages.Errors{"": text}, fiber.StatusUnprocessableEntity, true
}

// sentence makes a reason such as "is longer than 200 bytes" read alone.
func sentence(s string) string {
	if s == "" {
		return s
	}
	for _, verb := range []string{"is ", "must ", "has ", "does ", "names "} {
		if strings.HasPrefix(s, verb) {
			return "This " + s + "."
		}
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// value is a field of the form, trimmed; a string of our own.
func value(c *fiber.Ctx, name string) string {
	return strings.Clone(strings.TrimSpace(c.FormValue(name)))
}

// asked is a parameter of the query; a string of our own.
func asked(c *fiber.Ctx, name string) string { return strings.Clone(strings.TrimSpace(c.Query(name))) }

// param is a part of the path; a string of our own.
func param(c *fiber.Ctx, name string) string {
	s, err := url.PathUnescape(c.Params(name))
	if err != nil {
		return ""
	}
	return strings.Clone(s)
}

// day reads a date field as the end of that day, UTC; "" is nil.
func day(field, s string) (*time.Time, error) {
	if s == "" {
		return nil, nil
	}
	t, err := time.Parse("2006-01-02", s)
	if err != nil {
		return nil, devices.Invalid(field, "is no date such as 2027-01-31")
	}
	t = t.Add(24*time.Hour - time.Second)
	if t.Before(now()) {
		return nil, devices.Invalid(field, "is in the past")
	}
	return &t, nil
}

// scope are the groups where the caller is admin; nil: everywhere.
func scope(c inventory.Caller) []devices.GroupPath {
	in := []devices.GroupPath{}
	for _, b := range c.Bindings {
		if b.Role.Includes(devices.Admin) {
			if b.Group == devices.Site {
				return nil
			}
			in = append(in, b.Group)
		}
	}
	return in
}

// groups are those the caller is admin of, sorted by path.
func (h *handler) groups(c *fiber.Ctx) ([]devices.Group, error) {
	caller := auth.Caller(c)
	all, err := h.Inventory.Groups(c.UserContext(), caller)
	if err != nil {
		return nil, err
	}
	mine := all[:0:0]
	for _, g := range all {
		if caller.Can(devices.Admin, g.Path) {
			mine = append(mine, g)
		}
	}
	return mine, nil
}

// first is the group that a form for rights begins with: the whole site must be chosen, not overlooked.
func first(groups []devices.Group) string {
	if len(groups) == 0 {
		return ""
	}
	return string(groups[0].Path)
}

// box begins a small page.
func (h *handler) box(c *fiber.Ctx, section, title, action, back, submit string) pages.Box {
	return pages.Box{AdminPage: h.page(c, section, title), Action: action, Back: back, Submit: submit}
}

// overview is /admin.
func (h *handler) overview(c *fiber.Ctx) error {
	ctx, caller := c.UserContext(), auth.Caller(c)
	v := pages.AdminOverview{AdminPage: h.page(c, "", "Administration"), Scope: scope(caller), Counts: map[string]string{}}
	if v.SiteAdmin {
		v.Scope = []devices.GroupPath{devices.Site}
		v.Alerts = h.System.Status(ctx).Alerts()
	}
	groups, err := h.groups(c)
	if err != nil {
		return err
	}
	v.Counts["groups"] = pages.Count(len(groups), "group")
	seen := map[devices.ID]bool{}
	for _, p := range v.Scope {
		for _, d := range h.Catalog.DevicesIn(p) {
			seen[d.ID()] = true
		}
	}
	v.Counts["devices"] = pages.Count(len(seen), "device")
	if n := len(h.rejects(caller, "", 200)); n > 0 {
		v.Counts["intake"] = pages.Count(n, "message")
	}
	return render(c, fiber.StatusOK, pages.AdminOverviewPage(v))
}
