package auth_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
)

var (
	person  = &devices.Principal{Kind: devices.UserPrincipal, ID: "u"}
	program = &devices.Principal{Kind: devices.TokenPrincipal, ID: "t"}
)

// known has one session and one token.
type known struct{ down bool }

func (known) SignIn(_ context.Context, email, password, _, _ string) (string, devices.Session, error) {
	if email != "a@example.com" || password != "right" {
		return "", devices.Session{}, devices.ErrUnauthorized
	}
	return "secret", devices.Session{Expires: time.Now().Add(time.Hour)}, nil
}
func (known) SignOut(context.Context, string) error { return nil }
func (k known) Session(_ context.Context, secret string) (devices.Session, *devices.Principal, error) {
	switch {
	case k.down:
		return devices.Session{}, nil, devices.ErrUnavailable
	case secret == "secret":
		return devices.Session{CSRF: "proof"}, person, nil
	}
	return devices.Session{}, nil, devices.ErrUnauthorized
}

func (known) PrincipalByToken(secret string) *devices.Principal {
	if secret == "mrt_good" {
		return program
	}
	return nil
}

func app(k known, c auth.Config) *fiber.App {
	a := auth.New(c, k, k)
	f := fiber.New(fiber.Config{EnableTrustedProxyCheck: true, Immutable: true, ErrorHandler: func(c *fiber.Ctx, err error) error {
		switch {
		case errors.Is(err, devices.ErrForbidden):
			return c.SendStatus(403)
		case errors.Is(err, devices.ErrUnauthorized):
			return c.SendStatus(401)
		}
		return c.SendStatus(500)
	}})
	f.Post("/login", a.Middleware, func(c *fiber.Ctx) error { return a.SignIn(c, c.FormValue("email"), c.FormValue("password")) })
	f.Post("/logout", a.Middleware, a.SignOut)
	f.All("/", a.Middleware, func(c *fiber.Ctx) error {
		if who := auth.Caller(c); who.Principal != nil {
			return c.SendString(who.ID)
		}
		return c.SendString("nobody")
	})
	return f
}

func TestWhoAsks(t *testing.T) {
	check := func(want string, status int, k known, method, path, body string, header ...string) {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := app(k, auth.Config{Origins: []string{"https://plant.example"}}).Test(r)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 64)
		n, _ := resp.Body.Read(got)
		resp.Body.Close()
		if resp.StatusCode != status || want != "" && string(got[:n]) != want {
			t.Errorf("%s %s %q: %d %q, want %d %q", method, path, header, resp.StatusCode, got[:n], status, want)
		}
	}
	up, form, cookie := known{}, "application/x-www-form-urlencoded", "millrace_session=secret"
	check("nobody", 200, up, "GET", "/", "")
	check("u", 200, up, "GET", "/", "", "Cookie", cookie)
	check("nobody", 200, up, "GET", "/", "", "Cookie", "millrace_session=old")
	check("", 500, known{down: true}, "GET", "/", "", "Cookie", cookie)
	check("t", 200, up, "GET", "/", "", "Authorization", "Bearer mrt_good")
	check("t", 200, up, "GET", "/", "", "Authorization", "bearer mrt_good", "Cookie", cookie)
	check("nobody", 200, up, "GET", "/", "", "Authorization", "Basic eDp5", "Cookie", cookie)
	check("t", 200, up, "GET", "/?access_token=mrt_good", "")
	check("nobody", 200, up, "GET", "/?access_token=mrt_bad", "", "Cookie", cookie)
	// What changes something needs the session's token, and comes from our own pages.
	check("", 403, up, "POST", "/", "", "Cookie", cookie)
	check("", 403, up, "DELETE", "/", "", "Cookie", cookie, "X-CSRF-Token", "wrong")
	check("u", 200, up, "DELETE", "/", "", "Cookie", cookie, "X-CSRF-Token", "proof")
	check("u", 200, up, "POST", "/", "csrf=proof", "Cookie", cookie, "Content-Type", form)
	check("u", 200, up, "POST", "/", "", "Cookie", cookie, "X-CSRF-Token", "proof", "Origin", "http://example.com") // httptest's host
	check("u", 200, up, "POST", "/", "", "Cookie", cookie, "X-CSRF-Token", "proof", "Origin", "https://plant.example")
	check("", 403, up, "POST", "/", "", "Cookie", cookie, "X-CSRF-Token", "proof", "Origin", "http://evil.example")
	check("", 403, up, "POST", "/", "", "Cookie", cookie, "X-CSRF-Token", "proof", "Origin", "null")
	check("", 403, up, "POST", "/", "", "Cookie", cookie, "X-CSRF-Token", "proof", "Sec-Fetch-Site", "cross-site")
	check("t", 200, up, "POST", "/", "", "Authorization", "Bearer mrt_good", "Origin", "http://evil.example")
	check("", 403, up, "POST", "/login", "email=a@example.com&password=right", "Content-Type", form, "Origin", "http://evil.example")
	check("", 401, up, "POST", "/login", "email=a@example.com&password=wrong", "Content-Type", form)
	check("", 200, up, "POST", "/login", "email=a@example.com&password=right", "Content-Type", form, "Cookie", cookie)
}

func TestCookie(t *testing.T) {
	sign := func(path string, c auth.Config, header ...string) string {
		t.Helper()
		r := httptest.NewRequest("POST", path, strings.NewReader("email=a@example.com&password=right"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := app(known{}, c).Test(r)
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp.Status, err)
		}
		return strings.ToLower(resp.Header.Get("Set-Cookie"))
	}
	plain := sign("/login", auth.Config{})
	for _, want := range []string{"millrace_session=secret", "httponly", "samesite=lax", "path=/", "expires="} {
		if !strings.Contains(plain, want) {
			t.Errorf("%q lacks %s", plain, want)
		}
	}
	if strings.Contains(plain, "; secure") || !strings.Contains(sign("/login", auth.Config{Secure: true}), "; secure") {
		t.Error("Secure is for TLS")
	}
	if out := sign("/logout", auth.Config{}, "Cookie", "millrace_session=secret", "X-CSRF-Token", "proof"); !strings.Contains(out, "millrace_session=;") || !strings.Contains(out, "1970") {
		t.Errorf("signing out sets %q", out)
	}
}
