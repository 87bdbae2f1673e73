package dashboard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
)

// counters of requests, by status class.
type counters struct {
	classes [6]atomic.Uint64 // index 1 to 5: 1xx to 5xx
	nanos   atomic.Uint64
	now     atomic.Int64
}

// Stats are counters since start, but InFlight.
type Stats struct {
	Requests map[string]uint64 // by status class: "2xx" …
	Seconds  float64           // spent in handlers
	InFlight int64
}

// Stats is safe to call at any time.
func (a *App) Stats() Stats {
	s := Stats{Requests: make(map[string]uint64, 5), Seconds: float64(a.counts.nanos.Load()) / 1e9, InFlight: a.counts.now.Load()}
	for class := 1; class <= 5; class++ {
		s.Requests[fmt.Sprintf("%dxx", class)] = a.counts.classes[class].Load()
	}
	return s
}

// count is the outermost middleware: it also turns errors into answers, so as to see their status.
func (a *App) count(c *fiber.Ctx) error {
	start := time.Now()
	a.counts.now.Add(1)
	defer a.counts.now.Add(-1)
	if err := c.Next(); err != nil {
		if err := a.handleError(c, err); err != nil {
			return err
		}
	}
	if class := c.Response().StatusCode() / 100; class >= 1 && class <= 5 {
		a.counts.classes[class].Add(1)
	}
	a.counts.nanos.Add(uint64(time.Since(start)))
	return nil
}

type requestIDKey struct{}

// requestIDs gives each request an id, or keeps that of a trusted proxy, and sends it back.
func requestIDs(c *fiber.Ctx) error {
	id := c.Get(fiber.HeaderXRequestID)
	if !c.IsProxyTrusted() || !plain(id) {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		id = hex.EncodeToString(b[:])
	}
	c.Locals(requestIDKey{}, id)
	c.Set(fiber.HeaderXRequestID, id)
	return c.Next()
}

func plain(id string) bool {
	for i := range len(id) {
		b := id[i]
		if (b < 'a' || b > 'z') && (b < 'A' || b > 'Z') && (b < '0' || b > '9') && b != '-' && b != '_' {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 64
}

func requestID(c *fiber.Ctx) string {
	id, _ := c.Locals(requestIDKey{}).(string)
	return id
}

// rescue turns a panic of a handler into a 500; what it was goes to the log only.
func (a *App) rescue(c *fiber.Ctx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			a.log.Error("panic in a handler", "path", c.Path(), "request", requestID(c), "err", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = errors.New("panic")
		}
	}()
	return c.Next()
}

// headers says what browsers may do with our answers. Scripts, styles and connections only of our own; no page of ours in
// another's frame.
func (a *App) headers(c *fiber.Ctx) error {
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderXFrameOptions, "DENY")
	c.Set(fiber.HeaderReferrerPolicy, "same-origin")
	c.Set("Cross-Origin-Opener-Policy", "same-origin")
	c.Set("Cross-Origin-Resource-Policy", "same-origin")
	c.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	if c.Secure() {
		c.Set(fiber.HeaderStrictTransportSecurity, "max-age=31536000")
	}
	return c.Next()
}

// deadline ends the context of requests that take too long; Fiber ends it neither then nor when the client leaves. What comes
// after, an error page above all, is rendered in the context of before: a page is not rendered in one that is over.
func (a *App) deadline(c *fiber.Ctx) error {
	before := c.UserContext()
	ctx, cancel := context.WithTimeoutCause(before, a.c.RequestTimeout, fmt.Errorf("over %v: %w", a.c.RequestTimeout, context.DeadlineExceeded))
	defer func() {
		cancel()
		c.SetUserContext(before)
	}()
	c.SetUserContext(ctx)
	return c.Next()
}
