package rest

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gofiber/fiber/v2"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

func hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// store: devices d1 and d2 in plant1, d3 (disabled) there and d4 in plant2; one token may write in plant1, one only look.
type store struct{}

func (store) LoadDevices(context.Context, []devices.ID) ([]catalog.DeviceRecord, error) {
	record := func(id devices.ID, state devices.State, group devices.GroupPath) catalog.DeviceRecord {
		return catalog.DeviceRecord{Device: devices.Device{ID: id, State: state, Groups: []devices.GroupPath{group}},
			Credentials: []devices.Credential{{ID: "c-" + string(id), Device: id, Kind: devices.TokenCredential, Hash: hash("mrd_" + string(id))}}}
	}
	return []catalog.DeviceRecord{record("d1", devices.Active, "plant1/line1"), record("d2", devices.Active, "plant1"),
		record("d3", devices.Disabled, "plant1"), record("d4", devices.Active, "plant2")}, nil
}

func (store) LoadGroups(context.Context) ([]devices.Group, []devices.Metric, error) {
	return []devices.Group{{Path: "plant1"}, {Path: "plant1/line1"}, {Path: "plant2"}}, nil, nil
}

func (store) LoadAccess(context.Context) (catalog.Access, error) {
	return catalog.Access{
		Tokens: []devices.APIToken{{ID: "writer", Hash: hash("mrt_writer")}, {ID: "viewer", Hash: hash("mrt_viewer")}},
		Bindings: []devices.Binding{{ID: "1", Token: "writer", Group: "plant1", Role: devices.Ingest},
			{ID: "2", Token: "viewer", Group: devices.Site, Role: devices.Viewer}},
	}, nil
}

type log struct {
	stored int
	answer error
}

func (l *log) Enqueue(samples []devices.Sample, done func(error)) {
	l.stored += len(samples)
	if done != nil {
		go done(l.answer)
	}
}

func TestRoutes(t *testing.T) {
	cat := catalog.New(catalog.Config{SeriesPerDevice: 100}, store{})
	if err := cat.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	p := ingest.New(ingest.Config{MaxPayload: 1000, MaxBody: 2000, SamplesPerMessage: 20, DeviceRate: 20}, cat, l)
	statuses := map[error]int{devices.ErrUnauthorized: 401, devices.ErrForbidden: 403, devices.ErrNotFound: 404, devices.ErrTooLarge: 413,
		devices.ErrRate: 429, devices.ErrFull: 503, devices.ErrUnavailable: 503, devices.ErrInvalid: 400}
	app := fiber.New(fiber.Config{Immutable: true, UnescapePath: true, ErrorHandler: func(c *fiber.Ctx, err error) error {
		for is, status := range statuses {
			if errors.Is(err, is) {
				return c.Status(status).SendString(err.Error())
			}
		}
		if e, ok := errors.AsType[*fiber.Error](err); ok {
			return c.Status(e.Code).SendString(e.Message)
		}
		return c.Status(500).SendString(err.Error())
	}})
	admin := &devices.Principal{Bindings: []devices.Binding{{Group: devices.Site, Role: devices.Admin}}}
	Register(app, p, cat, func(c *fiber.Ctx) *devices.Principal {
		if c.Cookies("session") == "admin" {
			return admin
		}
		return nil
	})
	send := func(path, auth, body string, header ...string) (*http.Response, string) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		res, err := app.Test(r, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(text)
	}
	f := func(path, auth, body string, status int, part string, header ...string) {
		t.Helper()
		before := l.stored
		res, text := send(path, auth, body, header...)
		if res.StatusCode != status || !strings.Contains(text, part) {
			t.Errorf("%s %s %s: %d %s, want %d %s", path, auth, body, res.StatusCode, text, status, part)
		}
		if status == 401 && res.Header.Get("WWW-Authenticate") == "" || (status == 429 || status == 503) && res.Header.Get("Retry-After") == "" {
			t.Errorf("%d without its header", status)
		}
		if status >= 400 && status < 500 && l.stored != before {
			t.Errorf("%s: %d samples were taken", body, l.stored-before)
		}
	}
	zip := func(s string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	const one, many = "/api/v1/devices/d1/telemetry", "/api/v1/telemetry"
	const device, writer, viewer = "Bearer mrd_d1", "Bearer mrt_writer", "Bearer mrt_viewer"
	const nd = "application/x-ndjson; charset=utf-8"

	f(one, device, `{"a":1,"b":2}`, 200, `{"accepted":2}`)
	f(one, "basic ZDE6bXJkX2Qx", `{"a":1}`, 200, `{"accepted":1}`) // d1:mrd_d1
	f(one, writer, `[{"a":1},{"a":2}]`, 200, `{"accepted":2}`)
	f(one, "", `{"a":1}`, 200, `{"accepted":1}`, "Cookie", "session=admin")
	f(one, device, "{\"a\":1}\n{\"a\":2}\n", 200, `{"accepted":2}`, "Content-Type", nd)
	f(one, device, zip(`{"a":1}`), 200, `{"accepted":1}`, "Content-Encoding", "gzip")
	f(one+"?ack=none", device, `{"a":1}`, 202, `{"accepted":1}`)
	f(one+"?ack=none", device, `{"a":`, 400, "byte 5")

	f(one, device, `[{"a":1},{"a":x}]`, 400, "element 1, byte 14: x where")
	f(one, "", `{"a":1}`, 401, "credential")
	f(one, "Bearer mrd_d2", `{"a":1}`, 401, "")
	f(one, "Bearer mrt_nobody", `{"a":1}`, 401, "")
	f(one, "Basic ZDI6bXJkX2Qy", `{"a":1}`, 403, "another device") // d2:mrd_d2
	f(one, "Basic !", `{"a":1}`, 401, "")
	f(one, viewer, `{"a":1}`, 403, "role ingest")
	f("/api/v1/devices/d4/telemetry", writer, `{"a":1}`, 404, "")
	f("/api/v1/devices/d9/telemetry", writer, `{"a":1}`, 404, "")
	f("/api/v1/devices/d3/telemetry", writer, `{"a":1}`, 403, "disabled")
	f("/api/v1/devices/d3/telemetry", "Bearer mrd_d3", `{"a":1}`, 401, "")
	f(one, device, strings.Repeat(" ", 1001), 413, "at most 1000")
	f(one, device, zip(strings.Repeat(" ", 100_000)), 413, "at most 1000", "Content-Encoding", "gzip")
	f(one, device, "no gzip", 400, "gzip", "Content-Encoding", "gzip")
	f(one, device, zip(`{"a":1}`)[:20], 400, "gzip", "Content-Encoding", "gzip")
	f(one, device, `{"a":1}`, 415, "gzip", "Content-Encoding", "br")

	f(many, writer, `[{"device":"d1","a":1},{"device":"d2","a":1}]`, 200, `{"accepted":2}`)
	f(many, writer, "{\"device\":\"d2\",\"a\":1}\n{\"device\":\"d2\",\"a\":1}", 200, `{"accepted":2}`, "Content-Type", nd)
	f(many, writer, "{\"device\":\"d2\",\"a\":1}\n{\"device\":\"d4\",\"a\":1}", 404, `line 2, byte 32`, "Content-Type", nd)
	f(many, writer, `[{"device":"d2","a":1},{"device":"d3","a":1}]`, 403, `element 1`)
	f(many, writer, `[{"device":"d2","a":1},{"a":1}]`, 400, `element 1`)
	f(many, writer, strings.Repeat(" ", 2001), 413, "at most 2000")
	f(many, viewer, `[]`, 403, "role ingest")
	f(many, device, `[]`, 401, "")
	f(many, "", `[]`, 401, "")

	l.answer = devices.ErrFull
	f(one, writer, `{"a":1}`, 503, "")
	l.answer = nil
	f("/api/v1/devices/d2/telemetry", writer, "["+strings.Repeat(`{"a":1},`, 15)+`{"a":1}]`, 200, "16")
	f("/api/v1/devices/d2/telemetry", writer, "["+strings.Repeat(`{"a":1},`, 15)+`{"a":1}]`, 429, "20 samples a second")

	st := p.Stats()
	if st.Rejected["auth"] < 12 || st.Rejected["too_large"] != 3 || st.Rejected["rate"] != 1 {
		t.Errorf("%+v", st.Rejected)
	}
	if list := p.Rejects("d1", 100); len(list) == 0 || list[0].Topic != one {
		t.Errorf("%+v", list)
	}
}
