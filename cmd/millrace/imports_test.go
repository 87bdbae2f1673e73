package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// drawing says who may import whom of our own packages: the drawing of docs/architecture.md as a table. What is not listed may
// import nothing of ours. A change of it needs an ADR.
var drawing = map[string][]string{
	"devices":                 {},
	"devices/catalog":         {"devices"},
	"devices/inventory":       {"devices", "devices/catalog"},
	"devices/postgres":        {"devices", "devices/catalog", "devices/hubs", "devices/inventory", "devices/postgres/pgerr", "migrations"},
	"devices/postgres/local":  {},
	"devices/postgres/backup": {"migrations"},
	"devices/history/chunk":   {"devices"},
	"devices/history":         {"devices", "devices/catalog", "devices/history/chunk", "devices/postgres/pgerr"},
	"devices/postgres/pgerr":  {"devices"},
	"devices/hubs":            {"devices"},
	"migrations":              {},
	"migrations/pgtest":       {"migrations", "devices/postgres/local"},
	"fanout":                  {"devices"},
	"fanout/wire":             {"devices", "fanout"},
	"fanout/hub":              {},
	"ingest/codec":            {"devices"},
	"ingest/spine":            {"devices"},
	"ingest/spine/natstest":   {},
	"ingest":                  {"devices", "devices/catalog", "ingest/codec"},
	"ingest/broker":           {"devices", "devices/catalog", "ingest"},
	"ingest/mqtt":             {"devices", "devices/catalog", "ingest"},
	"ingest/rest":             {"devices", "devices/catalog", "ingest"},
	"dashboard/socket":        {"devices"},
	"dashboard/auth":          {"devices", "devices/catalog", "devices/inventory"},
	"dashboard/api":           {"devices", "devices/catalog", "devices/inventory", "dashboard/auth"},
	"dashboard/live":          {"devices", "devices/catalog", "fanout", "fanout/wire", "dashboard/auth", "dashboard/socket"},
	"dashboard/pages":         {"devices"},

	"dashboard/webpubsub/access":    {},
	"dashboard/webpubsub/filter":    {},
	"dashboard/webpubsub/protocol":  {"dashboard/socket", "fanout/hub"},
	"dashboard/webpubsub/event":     {"devices/hubs", "fanout/hub"},
	"dashboard/webpubsub/telemetry": {"devices", "fanout", "fanout/hub", "fanout/wire"},
	"dashboard/webpubsub":           {"dashboard/auth", "dashboard/socket", "dashboard/webpubsub/access", "dashboard/webpubsub/event", "dashboard/webpubsub/filter", "dashboard/webpubsub/protocol", "dashboard/webpubsub/telemetry", "devices", "devices/hubs", "fanout/hub"},
	"dashboard/operator":            {"devices", "devices/catalog", "devices/inventory", "dashboard/auth", "dashboard/pages", "web"},
	"dashboard/admin":               {"devices", "devices/catalog", "devices/inventory", "dashboard/auth", "dashboard/pages", "dashboard/operator", "web"},
	"dashboard":                     {"devices", "dashboard/api", "dashboard/auth", "dashboard/live", "dashboard/socket", "dashboard/pages", "dashboard/operator", "dashboard/admin", "web"},
	"web":                           {},
	"cmd/internal/client":           {"devices"},
	"cmd/millrace/fleet":            {"devices"},
	"cmd/loadgen":                   {"devices", "cmd/internal/client"},
}

// everything may import all of ours: the programs that join the parts, tools, and tests of the whole.
var everything = []string{"cmd/millrace", "cmd/millrace/e2e"}

// forbidden to fanout and what is below it, even indirectly: it has no network, database, log or metrics.
var forbidden = []string{"net", "net/http", "os/exec", "database/sql", "log", "log/slog", "expvar"}

// TestImports checks the drawing against what go list says of the code.
func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Deps,Standard,Module", "millrace/...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	type pkg struct {
		ImportPath    string
		Imports, Deps []string
		Standard      bool
		Module        *struct{ Path string }
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	ours := func(path string) (string, bool) { return strings.CutPrefix(path, "millrace/") }
	seen := map[string]bool{}
	for path, p := range all {
		name, ok := ours(path)
		if !ok || slices.Contains(everything, name) || strings.HasPrefix(name, "scripts/") || strings.HasPrefix(name, "web/build") {
			continue
		}
		seen[name] = true
		may, listed := drawing[name]
		if !listed {
			t.Errorf("%s is not in the drawing", name)
		}
		for _, imported := range p.Imports {
			if of, ok := ours(imported); ok && !slices.Contains(may, of) {
				t.Errorf("%s imports %s, which the drawing does not allow", name, of)
			}
		}
		pure := name == "devices" || name == "fanout" || name == "fanout/hub" || name == "fanout/wire" || name == "ingest/codec"
		for _, dep := range p.Deps {
			if !pure {
				break
			}
			if slices.Contains(forbidden, dep) {
				t.Errorf("%s gets %s indirectly", name, dep)
			}
			if d := all[dep]; !d.Standard && name != "ingest/codec" && !strings.HasPrefix(dep, "millrace/") {
				t.Errorf("%s gets %s, which is not of the standard library", name, dep)
			}
		}
	}
	for name := range drawing {
		if !seen[name] {
			t.Errorf("%s is in the drawing, but not there", name)
		}
	}
}
