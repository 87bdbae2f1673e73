// Package api is the REST interface of the inventory (docs: /openapi.json). It reads requests strictly, asks the inventory, which
// holds the rights, and writes the answer; one table of routes makes both the router's entries and the OpenAPI document.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/dashboard/auth"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/inventory"
)

// GroupStats is what the home page shows of a group. It is fanout's, by the same names.
type GroupStats struct {
	Series     int     `json:"series"`
	Stale      int     `json:"stale"`
	Viewers    int     `json:"viewers"`
	Rate       float64 `json:"rate"`                 // samples a second
	LastSample int64   `json:"lastSample,omitempty"` // Unix milliseconds; 0: none
}

// A Reject is a payload that was not taken.
type Reject struct {
	Device devices.ID `json:"device"`
	At     int64      `json:"at"` // Unix milliseconds
	Topic  string     `json:"topic"`
	Head   string     `json:"head"` // its first bytes; what is no UTF-8 is replaced
	Reason string     `json:"reason"`
	Kind   string     `json:"kind"`
}

// Deps are what the API asks of others. The functions may be nil: then there is nothing to tell.
type Deps struct {
	Inventory *inventory.Inventory
	Catalog   *catalog.Catalog
	History   History // nil: nothing is recorded
	Stats     func(devices.GroupPath) GroupStats
	Rejects   func(device devices.ID, limit int) []Reject // newest first; device "": all
	System    func(ctx context.Context) any               // for site admins
}

// API serves the routes.
type API struct {
	d     Deps
	asked chan struct{} // questions to history that are being answered
}

// New returns an API.
func New(d Deps) *API { return &API{d: d, asked: make(chan struct{}, historyAtOnce)} }

// Register adds the routes. That of the event stream (dashboard/live) must be there before, for a group's path takes all that follows.
func (a *API) Register(r fiber.Router) {
	for _, rt := range routes {
		if h := rt.handler; h != nil {
			r.Add(rt.method, rt.fiberPath(), auth.Require, func(c *fiber.Ctx) error {
				if err := rt.checkQuery(c); err != nil {
					return err
				}
				c.Set(fiber.HeaderCacheControl, "no-store")
				return h(a, c)
			})
		}
	}
}

// decode reads a JSON body strictly: one object, no unknown fields.
func decode(c *fiber.Ctx, into any) error {
	if t := c.Get(fiber.HeaderContentType); t != "" && !strings.HasPrefix(t, fiber.MIMEApplicationJSON) {
		return fiber.NewError(http.StatusUnsupportedMediaType, "the body must be application/json")
	}
	d := json.NewDecoder(bytes.NewReader(c.Body()))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return devices.Invalid(e.Field, "a %s is not taken here", e.Value)
		}
		if e, ok := errors.AsType[*devices.FieldError](err); ok {
			return e
		}
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return devices.Invalid(strings.Trim(name, `"`), "there is no such field")
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the body is empty, a JSON object is wanted: %w", devices.ErrInvalid)
		}
		return fmt.Errorf("the body is no JSON: %v: %w", err, devices.ErrInvalid)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("the body goes on after its JSON object: %w", devices.ErrInvalid)
	}
	return nil
}

// page reads after and limit.
func page(c *fiber.Ctx) (devices.Page, error) {
	p := devices.Page{After: c.Query("after")}
	if l := c.Query("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 || n > devices.MaxPage {
			return p, devices.Invalid("limit", "must be 1 to %d", devices.MaxPage)
		}
		p.Limit = n
	}
	return p, nil
}

// flag reads a query parameter that is 1 or true, 0 or false, or absent.
func flag(c *fiber.Ctx, name string) (bool, error) {
	v := c.Query(name)
	if v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, devices.Invalid(name, "must be 1 or 0")
	}
	return on, nil
}

// A list is one page; next is null on the last.
type list[T any] struct {
	Items []T     `json:"items"`
	Next  *string `json:"next"`
}

func listOf[T, V any](l devices.List[T], view func(T) V) list[V] {
	out := list[V]{Items: make([]V, 0, len(l.Items))}
	for _, item := range l.Items {
		out.Items = append(out.Items, view(item))
	}
	if l.Next != "" {
		out.Next = &l.Next
	}
	return out
}

func same[T any](v T) T { return v }

func created(c *fiber.Ctx, location string, v any) error {
	c.Location(location)
	return c.Status(http.StatusCreated).JSON(v)
}

func none(c *fiber.Ctx, err error) error {
	if err != nil {
		return err
	}
	return c.SendStatus(http.StatusNoContent)
}

// answer sends v unless there was an error.
func answer[T any](c *fiber.Ctx, v T, err error) error {
	if err != nil {
		return err
	}
	return c.JSON(v)
}

func millis(d time.Duration) int64 { return d.Milliseconds() }

// duration turns a field of milliseconds into a Duration; what overflows is out of every bound.
func duration(ms *int64) *time.Duration {
	if ms == nil {
		return nil
	}
	d := time.Duration(-1)
	if *ms >= 0 && *ms < 1<<42 {
		d = time.Duration(*ms) * time.Millisecond
	}
	return &d
}

// A nullable is a value, null, or absent.
type nullable[T any] struct {
	set   bool
	value *T
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *nullable[T]) UnmarshalJSON(b []byte) error {
	n.set = true
	return json.Unmarshal(b, &n.value)
}

func (n nullable[T]) pointer() **T {
	if !n.set {
		return nil
	}
	return &n.value
}

// A limit is of a normal band.
type limit = nullable[float64]

// systemInfo is GET /api/v1/system.
func (a *API) systemInfo(c *fiber.Ctx) error {
	if !auth.Caller(c).SiteAdmin() {
		return devices.ErrForbidden
	}
	if a.d.System == nil {
		return c.JSON(struct{}{})
	}
	return c.JSON(a.d.System(c.UserContext()))
}

// allRejects is GET /api/v1/rejects: those of the devices one is admin of, and those of nobody's for site admins.
func (a *API) allRejects(c *fiber.Ctx) error {
	who := auth.Caller(c)
	if !who.CanSomewhere(devices.Admin) {
		return devices.ErrForbidden
	}
	p, err := page(c)
	if err != nil {
		return err
	}
	items := []Reject{}
	if a.d.Rejects != nil {
		all := a.d.Rejects("", devices.MaxPage)
		items = slices.DeleteFunc(all, func(r Reject) bool {
			d := a.d.Catalog.Device(r.Device)
			if d == nil {
				return !who.SiteAdmin()
			}
			return !who.CanAny(devices.Admin, d.Info().Groups)
		})
		items = items[:min(len(items), p.Size())]
	}
	return c.JSON(list[Reject]{Items: notNil(items)})
}

// deviceRejects is GET /api/v1/devices/{id}/rejects.
func (a *API) deviceRejects(c *fiber.Ctx) error {
	who := auth.Caller(c)
	d, err := a.d.Inventory.Device(c.UserContext(), who, devices.ID(c.Params("id")))
	if err != nil {
		return err
	}
	if !who.CanAny(devices.Admin, d.Groups) {
		return devices.ErrForbidden
	}
	p, err := page(c)
	if err != nil {
		return err
	}
	var items []Reject
	if a.d.Rejects != nil {
		items = a.d.Rejects(d.ID, p.Size())
	}
	return c.JSON(list[Reject]{Items: notNil(items)})
}

func notNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
