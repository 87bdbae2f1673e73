package dashboard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
)

// A Problem is the body of an error answer (RFC 9457).
type Problem struct {
	Type     string `json:"type"`
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"` // urn:request:<id>, the id in the log and in X-Request-ID
	Field    string `json:"field,omitempty"`    // of the body or query that is at fault
}

// kinds says what each error of the domain is over HTTP: the first that matches.
var kinds = []struct {
	is     error
	status int
	kind   string // the end of Problem.Type
	detail bool   // the error's text is for the caller
}{
	{devices.ErrUnauthorized, http.StatusUnauthorized, "unauthorized", true},
	{devices.ErrForbidden, http.StatusForbidden, "forbidden", true},
	{devices.ErrNotFound, http.StatusNotFound, "not-found", true},
	{devices.ErrExists, http.StatusConflict, "exists", true},
	{devices.ErrStale, http.StatusConflict, "stale", true},
	{devices.ErrTooLarge, http.StatusRequestEntityTooLarge, "too-large", true},
	{devices.ErrRate, http.StatusTooManyRequests, "rate", true},
	{devices.ErrFull, http.StatusServiceUnavailable, "full", true},
	{devices.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", false},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timeout", false},
	{devices.ErrInvalid, http.StatusBadRequest, "invalid", true},
}

const problemBase = "urn:millrace:problem:"

// problem finds the answer to an error. Log tells that somebody must look.
func problem(err error) (p Problem, log bool) {
	if e, ok := errors.AsType[*devices.FieldError](err); ok {
		p.Field = e.Field
	}
	for _, k := range kinds {
		if !errors.Is(err, k.is) {
			continue
		}
		p.Type, p.Status = problemBase+k.kind, k.status
		if k.detail {
			p.Detail = err.Error()
		}
		p.Title = http.StatusText(p.Status)
		return p, !k.detail
	}
	if e, ok := errors.AsType[*fiber.Error](err); ok {
		p.Type, p.Status, p.Title = "about:blank", e.Code, http.StatusText(e.Code)
		switch {
		case e.Code == http.StatusRequestEntityTooLarge:
			p.Type, p.Detail = problemBase+"too-large", "the body is larger than this address takes"
		case e.Code == http.StatusNotFound:
			p.Type, p.Detail = problemBase+"not-found", "there is nothing at this address"
		case e.Message != p.Title:
			p.Detail = e.Message
		}
		return p, e.Code >= 500 && e.Code != http.StatusServiceUnavailable
	}
	p.Type, p.Status, p.Title = "about:blank", http.StatusInternalServerError, http.StatusText(http.StatusInternalServerError)
	return p, true
}

// handleError is Fiber's ErrorHandler: problem+json for programs, a page for browsers.
func (a *App) handleError(c *fiber.Ctx, err error) error {
	p, log := problem(err)
	id := requestID(c)
	if id != "" {
		p.Instance = "urn:request:" + id
	}
	if log {
		a.log.Error("request failed", "method", c.Method(), "path", c.Path(), "request", id, "status", p.Status, "err", err)
	}
	switch p.Status {
	case http.StatusUnauthorized:
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="millrace"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		if len(c.Response().Header.Peek(fiber.HeaderRetryAfter)) == 0 {
			c.Set(fiber.HeaderRetryAfter, "2")
		}
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Status(p.Status)
	if wantsPage(c) {
		if p.Status == http.StatusUnauthorized && c.Method() == fiber.MethodGet {
			return c.Redirect("/login?next="+url.QueryEscape(c.OriginalURL()), http.StatusSeeOther)
		}
		if a.d.ErrorPage != nil && a.d.ErrorPage(c, p) == nil {
			return nil
		}
		c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
		return c.SendString(fmt.Sprintf(`<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">`+
			`<title>%d %s</title><main><h1>%s</h1><p>%s</p><p><a href="/">Home</a></p></main></html>`,
			p.Status, html.EscapeString(p.Title), html.EscapeString(p.Title), html.EscapeString(p.Detail)))
	}
	if p.Status == http.StatusUnauthorized && c.Get("HX-Request") != "" {
		c.Set("HX-Redirect", "/login")
	}
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, "application/problem+json")
	return c.Send(body)
}

// wantsPage reports whether an error is shown to a person: a browser that loads a page, not a script of one.
func wantsPage(c *fiber.Ctx) bool {
	if strings.HasPrefix(c.Path(), "/api/") || c.Get("HX-Request") != "" || c.Get(fiber.HeaderAuthorization) != "" {
		return false
	}
	if _, ok := auth.Session(c); !ok && c.Get(fiber.HeaderAccept) == "" {
		return false
	}
	return c.Accepts("application/problem+json", fiber.MIMEApplicationJSON, fiber.MIMETextHTML) == fiber.MIMETextHTML
}
