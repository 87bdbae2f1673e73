// Package dashboard is the HTTP side of Millrace: the Fiber app with its middleware, error answers and the routes of all
// that speaks HTTP. What it serves is handed in as functions that register routes, so that it knows neither intake nor the store.
package dashboard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/pprof"
	"github.com/valyala/fasthttp"

	"millrace/dashboard/auth"
	"millrace/dashboard/live"
	"millrace/devices"
	"millrace/web"
)

// Config of the HTTP server.
type Config struct {
	TrustedProxies []string      `help:"Addresses or networks of proxies whose X-Forwarded-For, -Proto and -Host are believed."`
	MaxBody        int           `default:"1048576" help:"Largest body of a request in bytes, except telemetry and imports."`
	MaxIngestBody  int           `default:"8388608" help:"Largest body of a telemetry request or an import in bytes."`
	RequestTimeout time.Duration `default:"30s" help:"How long a request may take; live connections are not meant."`
	MetricsOpen    bool          `default:"true" negatable:"" help:"Serve /metrics to everybody; else to site admins and their tokens only."`
}

// defaults fills what was left at zero, for tests.
func (c *Config) defaults() {
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.MaxIngestBody == 0 {
		c.MaxIngestBody = 8 << 20
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 30 * time.Second
	}
}

// A Check is one part that must work for the server to be ready.
type Check struct {
	Name string
	OK   func(ctx context.Context) error
}

// Sockets are connections that outlive their request.
type Sockets interface {
	Run(ctx context.Context) error
	Shutdown(ctx context.Context) error // tells clients to come back, and waits until they have gone
}

// Deps are the parts that the app puts together. Live and the functions may be nil.
type Deps struct {
	Auth      *auth.Auth
	Live      *live.Handler
	Sockets   Sockets              // further connections that outlive their request
	Register  []func(fiber.Router) // API, intake, pages: in this order
	Checks    []Check
	Metrics   http.Handler
	OpenAPI   func() ([]byte, error)              // the document as JSON
	ErrorPage func(c *fiber.Ctx, p Problem) error // a page for browsers; an error falls back to a plain one
}

// App is the HTTP server: Listen, then Run.
type App struct {
	c     Config
	d     Deps
	log   *slog.Logger
	fiber *fiber.App

	proxies proxies

	listener net.Listener
	failing  sync.Map // names of the checks that failed last time
	stopping atomic.Bool
	noIntake atomic.Bool
	counts   counters
}

// New puts the routes together.
func New(c Config, d Deps, log *slog.Logger) *App {
	c.defaults()
	a := &App{c: c, d: d, log: log, proxies: newProxies(c.TrustedProxies)}
	a.fiber = fiber.New(fiber.Config{
		AppName:                 "Millrace",
		DisableStartupMessage:   true,
		ErrorHandler:            a.handleError,
		Immutable:               true, // strings of a request may be kept; the copies cost less than one that is forgotten
		CaseSensitive:           true,
		UnescapePath:            true, // a group may be written with %2F
		BodyLimit:               c.MaxBody,
		ReadBufferSize:          16 << 10, // the longest request line and headers
		ReadTimeout:             60 * time.Second,
		WriteTimeout:            60 * time.Second,
		IdleTimeout:             2 * time.Minute,
		ReduceMemoryUsage:       true, // idle connections, WebSockets too, hold no buffers
		EnableTrustedProxyCheck: true,
		TrustedProxies:          c.TrustedProxies,
		EnableIPValidation:      true,
		ProxyHeader:             fiber.HeaderXForwardedFor,
	})
	a.fiber.Server().HeaderReceived = a.limits
	a.routes()
	return a
}

// limits gives telemetry and imports larger bodies, and event streams no end. It runs before routing.
func (a *App) limits(h *fasthttp.RequestHeader) (r fasthttp.RequestConfig) {
	path, _, _ := strings.Cut(string(h.RequestURI()), "?")
	switch {
	case strings.HasPrefix(path, "/client"):
		r.WriteTimeout = 5 * time.Minute // a connect handler may take its time
	case strings.HasSuffix(path, "/stream") && strings.HasPrefix(path, "/api/v1/groups/"):
		r.WriteTimeout = 10 * 365 * 24 * time.Hour
	case path == "/api/v1/history":
		r.WriteTimeout = 10 * time.Minute // it ends itself before
	case strings.HasSuffix(path, "/telemetry"), path == "/api/v1/devices.csv", path == "/write", path == "/api/v2/write":
		r.MaxRequestBodySize = a.c.MaxIngestBody
	case strings.HasPrefix(path, "/debug/pprof"):
		r.WriteTimeout = 10 * time.Minute // profiles take as long as they are asked to
	}
	return r
}

func (a *App) routes() {
	r := a.fiber
	r.Use(a.count, a.forwarded, requestIDs, a.rescue, a.headers, a.deadline, a.closed)

	r.Get("/healthz", func(c *fiber.Ctx) error { return c.SendString("ok\n") })
	r.Get("/readyz", a.ready)
	r.Get(strings.TrimSuffix(web.Prefix, "/")+"/*", adaptor.HTTPHandler(web.Handler()))
	if a.d.OpenAPI != nil {
		r.Get("/openapi.json", func(c *fiber.Ctx) error {
			doc, err := a.d.OpenAPI()
			if err != nil {
				return err
			}
			c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
			return c.Send(doc)
		})
	}

	r.Use(a.d.Auth.Middleware)
	if a.d.Metrics != nil {
		h := adaptor.HTTPHandler(a.d.Metrics)
		if a.c.MetricsOpen {
			r.Get("/metrics", h)
		} else {
			r.Get("/metrics", auth.RequireSiteAdmin, h)
		}
	}
	r.Use("/debug/pprof", auth.RequireSiteAdmin)
	r.Use(pprof.New())
	if a.d.Live != nil {
		a.d.Live.Register(r)
	}
	for _, register := range a.d.Register {
		register(r)
	}
}

// Fiber is the router, for tests that look at the routes or send requests without a port.
func (a *App) Fiber() *fiber.App { return a.fiber }

// ready answers whether every part works, by name.
func (a *App) ready(c *fiber.Ctx) error {
	type result struct {
		Name  string `json:"name"`
		OK    bool   `json:"ok"`
		Error string `json:"error,omitempty"`
	}
	ctx, cancel := context.WithTimeout(c.UserContext(), 2*time.Second)
	defer cancel()
	results := make([]result, len(a.d.Checks))
	var wg sync.WaitGroup
	for i, check := range a.d.Checks {
		wg.Go(func() {
			err := check.OK(ctx)
			results[i] = result{Name: check.Name, OK: err == nil}
			if err != nil {
				if _, known := a.failing.Swap(check.Name, true); !known { // once, not at every look
					a.log.Warn("not ready", "part", check.Name, "err", err)
				}
				results[i].Error = "does not work at the moment; the log has more"
			} else if _, was := a.failing.LoadAndDelete(check.Name); was {
				a.log.Info("ready again", "part", check.Name)
			}
		})
	}
	wg.Wait()
	ready := !a.stopping.Load()
	for _, r := range results {
		ready = ready && r.OK
	}
	c.Set(fiber.HeaderCacheControl, "no-store")
	if !ready {
		c.Status(http.StatusServiceUnavailable)
	}
	return c.JSON(map[string]any{"ready": ready, "checks": results})
}

// closed refuses telemetry once intake has stopped, and everything else once the server stops.
func (a *App) closed(c *fiber.Ctx) error {
	if a.noIntake.Load() && c.Method() == fiber.MethodPost &&
		(strings.HasSuffix(c.Path(), "/telemetry") || c.Path() == "/write" || c.Path() == "/api/v2/write") {
		c.Set(fiber.HeaderConnection, "close")
		return fmt.Errorf("the server is stopping: %w", devices.ErrUnavailable)
	}
	return c.Next()
}

// Listen opens the port; with a TLS configuration it speaks HTTPS. Address ":0" takes a free port.
func (a *App) Listen(addr string, t *tls.Config) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("HTTP address %s: %w", addr, err)
	}
	if t != nil {
		l = tls.NewListener(l, t)
	}
	a.listener = l
	return l.Addr(), nil
}

// Run serves on the port of Listen until ctx ends, then shuts down as Shutdown does, for at most 10 s.
func (a *App) Run(ctx context.Context) error {
	if a.listener == nil {
		return errors.New("dashboard: Run without Listen")
	}
	served := make(chan error, 1)
	go func() { served <- a.fiber.Listener(a.listener) }()
	var parts sync.WaitGroup
	defer parts.Wait()
	hold, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	if a.d.Live != nil {
		parts.Go(func() { _ = a.d.Live.Run(hold) })
	}
	if a.d.Sockets != nil {
		parts.Go(func() { _ = a.d.Sockets.Run(hold) })
	}
	select {
	case err := <-served:
		return fmt.Errorf("HTTP server: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(hold, 10*time.Second)
	defer cancel()
	return errors.Join(a.Shutdown(last), <-served)
}

// StopIntake answers telemetry with 503 from now on, so that what was taken can be flushed while viewers still see it.
func (a *App) StopIntake() { a.noIntake.Store(true) }

// Shutdown stops taking requests, tells viewers to come back, and waits for what is under way until ctx ends.
func (a *App) Shutdown(ctx context.Context) error {
	a.StopIntake()
	a.stopping.Store(true)
	var err error
	if a.d.Live != nil {
		err = a.d.Live.Shutdown(ctx)
	}
	if a.d.Sockets != nil {
		err = errors.Join(err, a.d.Sockets.Shutdown(ctx))
	}
	return errors.Join(err, a.fiber.ShutdownWithContext(ctx))
}
