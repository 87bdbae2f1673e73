// Package admin serves the admin UI under /admin: HTML pages, forms and what htmx asks of them. Every form works without
// scripts; with them, small ones open in a dialog and come back in place. Rights, validation and audit are the
// inventory's: a handler never decides who may do something, it only leaves out what the caller can't use.
package admin

import (
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/inventory"
)

// System tells how the server is. It is asked at most once a second for each viewer of the system page, and must answer within
// a second, also when the database is away.
type System interface {
	Status(ctx context.Context) pages.SystemStatus
}

// Intake knows what was refused.
type Intake interface {
	// Rejects returns the newest first, of one device or (device "") of all.
	Rejects(device devices.ID, limit int) []pages.Reject
}

// Live knows present values.
type Live interface {
	// DeviceValues returns the present value of each series of a device that has one.
	DeviceValues(id devices.ID) []pages.LiveValue
}

// Addresses are where this server listens, as host:port; a host that is empty or a wildcard means the one the browser
// used. Empty: not there.
type Addresses struct {
	PublicURL string // base URL behind a proxy; empty: as the browser asked
	MQTT      string
	MQTTS     string
}

// Deps is what the handlers work on. All but History, Addresses and Asset are needed.
type Deps struct {
	Inventory *inventory.Inventory
	Catalog   *catalog.Catalog
	System    System
	Intake    Intake
	Live      Live
	History   History          // nil: nothing is told of it
	Addresses func() Addresses // asked at each request: port 0 becomes known late
	Asset     func(name string) string
}

// handler holds Deps and the memory of the system page.
type handler struct {
	Deps
	mu    sync.Mutex
	rates []sample // of intake counters, oldest first
}

// Register adds the routes of the admin UI to r, which must run auth.Middleware before. Who is admin nowhere is refused.
func Register(r fiber.Router, d Deps) {
	h := &handler{Deps: d}
	g := r.Group("/admin", auth.RequireSomewhere(devices.Admin), func(c *fiber.Ctx) error {
		c.Set(fiber.HeaderCacheControl, "no-store")
		return c.Next()
	})
	g.Get("/", h.overview)
	h.deviceRoutes(g)
	h.groupRoutes(g)
	h.userRoutes(g)
	h.accessRoutes(g)
	h.tokenRoutes(g)
	g.Get("/intake", h.intake)
	g.Get("/audit", h.audit)
	g.Get("/system", h.system)
	g.Post("/system/parked/:id/retry", h.retryParked)
	g.Get("/system/parked/:id/discard", h.confirmDiscardParked)
	g.Post("/system/parked/:id/discard", h.discardParked)
}

// endpoints are the server's addresses as a device would write them.
func (h *handler) endpoints(c *fiber.Ctx) pages.Endpoints {
	var a Addresses
	if h.Addresses != nil {
		a = h.Addresses()
	}
	host := strings.Clone(c.Hostname())
	e := pages.Endpoints{HTTP: strings.TrimSuffix(a.PublicURL, "/"), Host: host}
	if name, _, err := net.SplitHostPort(host); err == nil {
		e.Host = name
	}
	if e.HTTP == "" {
		e.HTTP = c.Protocol() + "://" + host
	}
	own := false
	if a.MQTT != "" {
		e.MQTTPort, own = portOf(a.MQTT, &e.Host, own)
	}
	if a.MQTTS != "" {
		e.TLSPort, _ = portOf(a.MQTTS, &e.Host, own)
	}
	return e
}

// portOf takes the port out of an address, and its host, too, when that one means a machine that others can reach.
func portOf(address string, host *string, fixed bool) (string, bool) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, fixed
	}
	if ip := net.ParseIP(name); name == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) || name == "localhost" || fixed {
		return port, fixed
	}
	*host = name
	return port, true
}

// now is when a page is made.
func now() time.Time { return time.Now() }
