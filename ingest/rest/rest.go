// Package rest takes samples over HTTP. It registers routes and owns no server; errors go to the app's error handler, which
// answers problem+json.
package rest

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

// Principals says who signed a request in by other means than a header that this package knows (a session cookie, say);
// nil: nobody.
type Principals func(c *fiber.Ctx) *devices.Principal

// Register adds the routes of intake:
//
//	POST /api/v1/devices/{device}/telemetry  the device's credential (Bearer, or Basic with its id), or a principal with role ingest for it
//	POST /api/v1/telemetry                   a principal with role ingest
//
// Bodies are what MQTT payloads may be, or NDJSON (application/x-ndjson); gzip is taken. 200 {"accepted":n} says that all are on disk;
// with ?ack=none the answer is 202 as soon as they are read.
func Register(r fiber.Router, p *ingest.Pipeline, cat *catalog.Catalog, who ...Principals) {
	h := &handler{p, cat, who}
	r.Post("/api/v1/devices/:device/telemetry", h.one)
	r.Post("/api/v1/telemetry", h.many)
}

type handler struct {
	pipeline *ingest.Pipeline
	cat      *catalog.Catalog
	who      []Principals
}

func (h *handler) one(c *fiber.Ctx) error {
	id := devices.ID(c.Params("device"))
	device, err := h.device(c, id)
	if err != nil {
		return h.refused(c, id, err)
	}
	payload, err := h.body(c, h.pipeline.Config().MaxPayload)
	if err != nil {
		return h.recorded(c, id, "json", err)
	}
	m := ingest.Message{Protocol: ingest.HTTP, Device: device, Topic: c.Path(), Payload: payload, Lines: ndjson(c), Recv: time.Now().UnixMilli(), Wait: wait(c)}
	return answer(c, func(done func(error)) int { return h.pipeline.Handle(&m, done) })
}

func (h *handler) many(c *fiber.Ctx) error {
	who := h.principal(c)
	switch {
	case who == nil:
		return h.refused(c, "", fmt.Errorf("an API token with role ingest is needed: %w", devices.ErrUnauthorized))
	case !who.CanSomewhere(devices.Ingest):
		return h.refused(c, "", fmt.Errorf("role ingest is needed: %w", devices.ErrForbidden))
	}
	payload, err := h.body(c, h.pipeline.Config().MaxBody)
	if err != nil {
		return h.recorded(c, "", "json", err)
	}
	b := ingest.Body{Protocol: ingest.HTTP, Topic: c.Path(), Payload: payload, Lines: ndjson(c), Recv: time.Now().UnixMilli(), Wait: wait(c),
		Device: func(id devices.ID) (*catalog.Device, error) { return h.allowed(who, id) }}
	return answer(c, func(done func(error)) int { return h.pipeline.HandleMany(&b, done) })
}

// answer hands over and, unless the sender doesn't want to wait, waits for the disk.
func answer(c *fiber.Ctx, handle func(done func(error)) int) error {
	stored := make(chan error, 1)
	n := handle(func(err error) { stored <- err })
	select {
	case err := <-stored:
		if err != nil {
			if errors.Is(err, devices.ErrRate) || errors.Is(err, devices.ErrFull) || errors.Is(err, devices.ErrUnavailable) {
				c.Set(fiber.HeaderRetryAfter, "1")
			}
			return err
		}
	case <-c.UserContext().Done(): // they may still be stored, but nobody can say so in time
		c.Set(fiber.HeaderRetryAfter, "1")
		return fmt.Errorf("samples not on disk in time: %w", devices.ErrUnavailable)
	}
	if !wait(c) {
		c.Status(http.StatusAccepted)
	}
	return c.JSON(fiber.Map{"accepted": n})
}

func wait(c *fiber.Ctx) bool { return c.Query("ack") != "none" }

func ndjson(c *fiber.Ctx) bool {
	kind, _, err := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	if err != nil {
		return false
	}
	switch kind {
	case "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines":
		return true
	}
	return false
}

// body returns the body without its gzip, of which at most limit+1 bytes are unpacked: enough to be refused as too large.
func (h *handler) body(c *fiber.Ctx, limit int) ([]byte, error) {
	raw := c.Request().Body()
	switch coding := strings.ToLower(strings.TrimSpace(c.Get(fiber.HeaderContentEncoding))); coding {
	case "", "identity":
		return raw, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, devices.Invalid("body", "is no gzip: %v", err)
		}
		plain, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
		if err != nil {
			return nil, devices.Invalid("body", "is no whole gzip: %v", err)
		}
		return plain, nil
	default:
		return nil, fiber.NewError(http.StatusUnsupportedMediaType, "Content-Encoding may be gzip")
	}
}

// device signs a request for one device in.
func (h *handler) device(c *fiber.Ctx, id devices.ID) (*catalog.Device, error) {
	scheme, rest, _ := strings.Cut(c.Get(fiber.HeaderAuthorization), " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "Bearer") && strings.HasPrefix(rest, "mrd_"):
		d, _, err := h.cat.DeviceByToken(id, rest)
		return d, err
	case strings.EqualFold(scheme, "Basic"):
		pair, err := base64.StdEncoding.DecodeString(rest)
		user, token, ok := strings.Cut(string(pair), ":")
		if err != nil || !ok {
			return nil, fmt.Errorf("malformed Basic credentials: %w", devices.ErrUnauthorized)
		}
		if devices.ID(user) != id {
			return nil, fmt.Errorf("the credentials of another device: %w", devices.ErrForbidden)
		}
		d, _, err := h.cat.DeviceByToken(id, token)
		return d, err
	}
	who := h.principal(c)
	if who == nil {
		return nil, fmt.Errorf("the device's credential or an API token is needed: %w", devices.ErrUnauthorized)
	}
	return h.allowed(who, id)
}

func (h *handler) principal(c *fiber.Ctx) *devices.Principal {
	if header := c.Get(fiber.HeaderAuthorization); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil
		}
		return h.cat.PrincipalByToken(strings.TrimSpace(token))
	}
	for _, f := range h.who {
		if p := f(c); p != nil {
			return p
		}
	}
	return nil
}

// allowed returns the device if who may write for it. What it may not even see answers ErrNotFound.
func (h *handler) allowed(who *devices.Principal, id devices.ID) (*catalog.Device, error) {
	missing := fmt.Errorf("device %q: %w", string(id[:min(len(id), 128)]), devices.ErrNotFound)
	d := h.cat.Device(id)
	if d == nil {
		return nil, missing
	}
	groups := d.Info().Groups
	switch {
	case !who.CanAny(devices.Ingest, groups):
		if who.CanAny(devices.Viewer, groups) {
			return nil, fmt.Errorf("device %s: role ingest is needed: %w", id, devices.ErrForbidden)
		}
		return nil, missing
	case d.State() != devices.Active:
		return nil, fmt.Errorf("device %s is %s: %w", id, d.State(), devices.ErrForbidden)
	}
	return d, nil
}

// refused counts a request that was not let in.
func (h *handler) refused(c *fiber.Ctx, id devices.ID, err error) error {
	if errors.Is(err, devices.ErrUnauthorized) {
		c.Set(fiber.HeaderWWWAuthenticate, `Bearer realm="millrace"`)
	}
	return h.recorded(c, id, "auth", err)
}

func (h *handler) recorded(c *fiber.Ctx, id devices.ID, kind string, err error) error {
	r := &ingest.Reject{Device: id, At: time.Now().UnixMilli(), Topic: c.Path(), Kind: kind, Reason: err.Error(), Err: err}
	h.pipeline.Record(r)
	return err
}
