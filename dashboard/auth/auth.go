// Package auth finds out who a request comes from: a browser's session cookie, or an API token in the Authorization
// header or the query. It sets and clears the cookie and guards what the cookie can do against other sites' pages.
// Rights are not its business: handlers ask the inventory, or the principal, about each group.
package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/utils"

	"millrace/devices"
	"millrace/devices/inventory"
)

// Cookie is the name of the session cookie.
const Cookie = "millrace_session"

// Where a session's CSRF token is sent back: in a header by scripts, in a field by forms.
const (
	CSRFHeader = "X-CSRF-Token"
	CSRFField  = "csrf"
)

// Config of sign-in.
type Config struct {
	Origins []string // further origins (scheme://host[:port]) whose pages may act with our cookie, e.g. a public name behind a proxy
	Secure  bool     // mark cookies Secure also when the request did not come over TLS (a proxy that does not say so ends it)
}

// Sessions signs browsers in and out. inventory.Inventory is one.
type Sessions interface {
	SignIn(ctx context.Context, email, password, ip, agent string) (string, devices.Session, error)
	SignOut(ctx context.Context, secret string) error
	Session(ctx context.Context, secret string) (devices.Session, *devices.Principal, error)
}

// Tokens knows API tokens. catalog.Catalog is one.
type Tokens interface {
	PrincipalByToken(secret string) *devices.Principal
}

// Auth is safe for concurrent use.
type Auth struct {
	c        Config
	sessions Sessions
	tokens   Tokens

	mu        sync.Mutex
	signedOut map[*func()]struct{}
}

// New returns the middleware's owner.
func New(c Config, s Sessions, t Tokens) *Auth { return &Auth{c: c, sessions: s, tokens: t} }

// identity is what the middleware found out about a request.
type identity struct {
	principal *devices.Principal
	session   *devices.Session // nil unless the cookie spoke
	secret    string           // the cookie's value, our own copy
}

type localsKey struct{}

// Middleware resolves the caller and refuses what a page of another site makes a signed-in browser do. An API token goes
// before the cookie, and with any Authorization header the cookie says nothing: whoever can set that header is no
// foreign form. An unknown token or session makes an anonymous caller, whom the handlers refuse; only a store that does
// not answer is an error here.
func (a *Auth) Middleware(c *fiber.Ctx) error {
	id := identity{}
	header := c.Get(fiber.HeaderAuthorization)
	query := c.Query("access_token")
	switch cookie := c.Cookies(Cookie); {
	case header != "":
		// A device's token is for intake, which looks it up itself.
		if token, ok := bearer(header); ok && !strings.HasPrefix(token, "mrd_") {
			id.principal = a.tokens.PrincipalByToken(token)
		}
	case query != "":
		id.principal = a.tokens.PrincipalByToken(query)
	case cookie != "":
		secret := utils.CopyString(cookie)
		s, p, err := a.sessions.Session(c.UserContext(), secret)
		switch {
		case err == nil:
			id = identity{principal: p, session: &s, secret: secret}
		case errors.Is(err, devices.ErrUnauthorized), errors.Is(err, devices.ErrNotFound), errors.Is(err, devices.ErrInvalid):
		default:
			return err
		}
	}
	if p := id.principal; p != nil && !p.Expires.IsZero() && !time.Now().Before(p.Expires) {
		id = identity{}
	}
	c.Locals(localsKey{}, &id)
	if header == "" && query == "" && !safe(c.Method()) {
		if err := a.guard(c, &id); err != nil {
			return err
		}
	}
	return c.Next()
}

// guard is the defence against cross-site request forgery: the page that sent the request must be ours by its Origin, and
// a signed-in browser must also send its session's token, which other sites' pages can't read.
func (a *Auth) guard(c *fiber.Ctx, id *identity) error {
	if !a.OwnOrigin(c) {
		return devices.ErrForbidden
	}
	if id.session == nil || c.Path() == "/login" { // signing in may replace a session that the form does not know of
		return nil
	}
	sent := c.Get(CSRFHeader)
	if sent == "" {
		sent = c.FormValue(CSRFField)
	}
	if len(sent) == 0 || subtle.ConstantTimeCompare([]byte(sent), []byte(id.session.CSRF)) != 1 {
		return &CSRFError{}
	}
	return nil
}

// A CSRFError is an ErrForbidden: the session's token was missing or another one's.
type CSRFError struct{}

func (*CSRFError) Error() string {
	return "the form is from an earlier session: load the page again (header X-CSRF-Token or field csrf is missing or wrong)"
}

// Unwrap makes it an ErrForbidden.
func (*CSRFError) Unwrap() error { return devices.ErrForbidden }

// OwnOrigin reports whether the request comes from one of our own pages or from no page at all: browsers send Origin with
// every request that changes something and with every WebSocket handshake.
func (a *Auth) OwnOrigin(c *fiber.Ctx) bool {
	origin := c.Get(fiber.HeaderOrigin)
	if origin == "" {
		site := c.Get("Sec-Fetch-Site")
		return site == "" || site == "same-origin" || site == "none"
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, c.Hostname()) {
		return true
	}
	return slices.ContainsFunc(a.c.Origins, func(own string) bool {
		return strings.EqualFold(strings.TrimSuffix(own, "/"), origin)
	})
}

func safe(method string) bool {
	switch method {
	case fiber.MethodGet, fiber.MethodHead, fiber.MethodOptions, fiber.MethodTrace:
		return true
	}
	return false
}

// bearer takes the token out of "Bearer <token>" (RFC 6750, 2.1); the scheme's letter case is ignored (RFC 9110, 11.1).
func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

func of(c *fiber.Ctx) *identity {
	if id, ok := c.Locals(localsKey{}).(*identity); ok {
		return id
	}
	return &identity{}
}

// Caller is who asks, and from where. Principal is nil when the request is anonymous. The strings are the caller's own
// and may be kept.
func Caller(c *fiber.Ctx) inventory.Caller {
	caller := inventory.Caller{Principal: of(c).principal, IP: utils.CopyString(c.IP())}
	if s := of(c).session; s != nil {
		caller.Session = s.Hash
	}
	return caller
}

// Session returns the browser's session; false when the caller is anonymous or came with a token.
func Session(c *fiber.Ctx) (devices.Session, bool) {
	if s := of(c).session; s != nil {
		return *s, true
	}
	return devices.Session{}, false
}

// CSRF is the token that forms of this session send back in the field "csrf", scripts in X-CSRF-Token; "" when there is no
// session.
func CSRF(c *fiber.Ctx) string {
	if s := of(c).session; s != nil {
		return s.CSRF
	}
	return ""
}

// SignIn signs a browser in and sets its cookie. Wrong credentials: devices.ErrUnauthorized; too many tries: ErrRate.
func (a *Auth) SignIn(c *fiber.Ctx, email, password string) error {
	agent := utils.CopyString(c.Get(fiber.HeaderUserAgent))
	secret, s, err := a.sessions.SignIn(c.UserContext(), utils.CopyString(email), utils.CopyString(password), utils.CopyString(c.IP()), agent)
	if err != nil {
		return err
	}
	if old := c.Cookies(Cookie); old != "" && old != secret {
		// The browser forgets the session it had, so that session ends. That it can't be ended is no reason to refuse the new one.
		_ = a.sessions.SignOut(c.UserContext(), utils.CopyString(old))
	}
	a.setCookie(c, secret, s.Expires)
	return nil
}

// SignOut ends the browser's session and clears its cookie, also when the store does not answer.
func (a *Auth) SignOut(c *fiber.Ctx) error {
	secret := utils.CopyString(c.Cookies(Cookie))
	a.setCookie(c, "", time.Unix(1, 0))
	if secret == "" {
		return nil
	}
	err := a.sessions.SignOut(c.UserContext(), secret)
	a.mu.Lock()
	tell := slices.Collect(maps.Keys(a.signedOut))
	a.mu.Unlock()
	for _, f := range tell {
		(*f)()
	}
	return err
}

// WatchSignOut calls f after each sign-out, until cancel, so that connections of that session can end.
func (a *Auth) WatchSignOut(f func()) (cancel func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.signedOut == nil {
		a.signedOut = map[*func()]struct{}{}
	}
	a.signedOut[&f] = struct{}{}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.signedOut, &f)
	}
}

func (a *Auth) setCookie(c *fiber.Ctx, value string, expires time.Time) {
	c.Cookie(&fiber.Cookie{
		Name:     Cookie,
		Value:    value,
		Path:     "/",
		Expires:  expires,
		HTTPOnly: true,
		SameSite: fiber.CookieSameSiteLaxMode,
		Secure:   a.c.Secure || c.Secure(),
	})
	c.Set(fiber.HeaderCacheControl, "no-store")
}

// Require refuses anonymous callers with devices.ErrUnauthorized.
func Require(c *fiber.Ctx) error {
	if of(c).principal == nil {
		return devices.ErrUnauthorized
	}
	return c.Next()
}

// RequireSomewhere returns a handler that refuses callers who hold the role nowhere.
func RequireSomewhere(role devices.Role) fiber.Handler {
	return func(c *fiber.Ctx) error {
		switch p := of(c).principal; {
		case p == nil:
			return devices.ErrUnauthorized
		case !p.CanSomewhere(role):
			return devices.ErrForbidden
		}
		return c.Next()
	}
}

// RequireSiteAdmin refuses everybody but site admins.
func RequireSiteAdmin(c *fiber.Ctx) error {
	switch p := of(c).principal; {
	case p == nil:
		return devices.ErrUnauthorized
	case !p.SiteAdmin():
		return devices.ErrForbidden
	}
	return c.Next()
}

// Recheck returns a function that looks the caller's session up again, for connections that outlive the request; nil for
// callers with a token, whose catalog entry tells all. It answers devices.ErrUnauthorized once the session has ended.
func (a *Auth) Recheck(c *fiber.Ctx) func(context.Context) error {
	secret := of(c).secret
	if secret == "" {
		return nil
	}
	return func(ctx context.Context) error {
		_, p, err := a.sessions.Session(ctx, secret)
		if err == nil && p == nil {
			err = devices.ErrUnauthorized
		}
		return err
	}
}
