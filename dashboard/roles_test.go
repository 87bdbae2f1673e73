package dashboard_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gofiber/fiber/v2"
	"go.uber.org/goleak"

	"millrace/dashboard"
	"millrace/dashboard/api"
	"millrace/dashboard/auth"
	"millrace/dashboard/live"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/history"
	"millrace/devices/inventory"
	"millrace/devices/postgres"
	"millrace/fanout"
	"millrace/ingest"
	"millrace/ingest/rest"
	"millrace/migrations/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.Main(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

// A site is the whole HTTP surface over a real database.
type site struct {
	t         *testing.T
	app       *dashboard.App
	inventory *inventory.Inventory
	catalog   *catalog.Catalog
	history   *history.Store
	n         int
}

var system = inventory.Caller{Principal: devices.System}

// disk is a spine that stores at once.
type disk struct{}

func (disk) Enqueue(_ []devices.Sample, done func(error)) {
	if done != nil {
		go done(nil)
	}
}

func newSite(t *testing.T) *site {
	pool := pgtest.New(t)
	store := postgres.New(pool)
	cat := catalog.New(catalog.Config{SeriesPerDevice: 1000}, store)
	if err := cat.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s := &site{t: t, catalog: cat, inventory: inventory.New(store, cat), history: history.New(pool, cat, history.Config{}, log)}
	a := auth.New(auth.Config{}, s.inventory, cat)
	rights := api.New(api.Deps{
		Inventory: s.inventory, Catalog: cat, History: s.history,
		Stats: func(devices.GroupPath) api.GroupStats { return api.GroupStats{Series: 1, Rate: 2} },
		Rejects: func(devices.ID, int) []api.Reject {
			return []api.Reject{{Device: "d1", At: 1, Topic: "x", Reason: "y", Kind: "json"}, {Device: "nobody", At: 1}}
		},
		System: func(context.Context) any { return map[string]int{"goroutines": 1} },
	})
	pipeline := ingest.New(ingest.Config{MaxPayload: 1 << 18, SamplesPerMessage: 10000}, cat, disk{})
	s.app = dashboard.New(dashboard.Config{MetricsOpen: true}, dashboard.Deps{
		Auth: a, Live: live.New(live.Config{}, fanout.New(fanout.Config{}), cat, a, log), OpenAPI: api.OpenAPI,
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "up 1") }),
		Register: []func(fiber.Router){rights.Register, func(r fiber.Router) { rest.Register(r, pipeline, cat) }},
	}, log)
	return s
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// token makes an API token.
func (s *site) token(role devices.Role, group devices.GroupPath, expires *time.Time) string {
	_, secret, err := s.inventory.CreateToken(s.t.Context(), system, inventory.TokenRequest{Name: "t", Role: role, Group: group, Expires: expires})
	if err != nil {
		s.t.Fatal(err)
	}
	return secret
}

func (s *site) do(method, path, secret, body string, header ...string) (*http.Response, []byte) {
	s.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.app.Fiber().Test(r, 20000)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	return resp, must(io.ReadAll(resp.Body))
}

// fresh makes things for one request, so that each may be changed or deleted by every role in turn.
func (s *site) fresh(template string) string {
	ctx := s.t.Context()
	s.n++
	name := fmt.Sprintf("n%d", s.n)
	out := strings.ReplaceAll(template, "NEW", name)
	if strings.Contains(out, "DEVICE") || strings.Contains(out, "CREDENTIAL") {
		must2(s.inventory.CreateDevice(ctx, system, devices.Device{ID: devices.ID(name), State: devices.Active, Groups: []devices.GroupPath{"plant1"}}))
		out = strings.ReplaceAll(out, "DEVICE", name)
		out = strings.ReplaceAll(out, "CREDENTIAL", must(s.inventory.Credentials(ctx, system, devices.ID(name)))[0].ID)
	}
	if strings.Contains(out, "GROUP") {
		must(s.inventory.CreateGroup(ctx, system, devices.Group{Path: devices.GroupPath("plant1/" + name)}))
		out = strings.ReplaceAll(out, "GROUP", "plant1/"+name)
	}
	if strings.Contains(out, "USER") || strings.Contains(out, "BINDING") {
		u := must(s.inventory.CreateUser(ctx, system, devices.User{Email: name + "@example.com"}, "long enough a secret"))
		out = strings.ReplaceAll(out, "USER", u.ID)
		if strings.Contains(out, "BINDING") {
			out = strings.ReplaceAll(out, "BINDING", must(s.inventory.CreateBinding(ctx, system, devices.Binding{User: u.ID, Group: "plant1", Role: devices.Viewer})).ID)
		}
	}
	if strings.Contains(out, "TOKEN") {
		t, _, err := s.inventory.CreateToken(ctx, system, inventory.TokenRequest{Name: "t", Role: devices.Viewer, Group: "plant1"})
		if err != nil {
			s.t.Fatal(err)
		}
		out = strings.ReplaceAll(out, "TOKEN", t.ID)
	}
	return out
}

func must2[T, U any](v T, _ U, err error) T { return must(v, err) }

// access says what each route answers to whom, in the order of the roles in TestEveryRouteForEveryRole. Capitals in paths
// and bodies stand for things made anew for each request.
var access = []struct {
	method, route, request, body string
	want                         string
}{
	//                                                                                                anonymous, viewer here, elsewhere, operator, editor, group admin, site admin, ingest, expired, device
	{"GET", "/api/v1/me", "/api/v1/me", "", "401 200 200 200 200 200 200 200 401 401"},
	{"POST", "/api/v1/me/password", "/api/v1/me/password", `{"old":"x","new":"y"}`, "401 403 403 403 403 403 403 403 401 401"},
	{"GET", "/api/v1/devices", "/api/v1/devices", "", "401 200 200 200 200 200 200 200 401 401"},
	{"POST", "/api/v1/devices", "/api/v1/devices", `{"id":"NEW","groups":["plant1"]}`, "401 403 403 403 403 201 201 403 401 401"},
	{"GET", "/api/v1/devices.csv", "/api/v1/devices.csv", "", "401 200 200 200 200 200 200 200 401 401"},
	{"POST", "/api/v1/devices.csv", "/api/v1/devices.csv?dryRun=1", "id,label\nNEW,x\n", "401 403 403 403 403 422 200 403 401 401"},
	{"GET", "/api/v1/devices/:id", "/api/v1/devices/d1", "", "401 200 404 200 200 200 200 404 401 401"},
	{"PATCH", "/api/v1/devices/:id", "/api/v1/devices/DEVICE", `{"label":"x"}`, "401 403 404 403 403 200 200 404 401 401"},
	{"DELETE", "/api/v1/devices/:id", "/api/v1/devices/DEVICE", "", "401 403 404 403 403 204 204 404 401 401"},
	{"GET", "/api/v1/devices/:id/credentials", "/api/v1/devices/d1/credentials", "", "401 403 404 403 403 200 200 404 401 401"},
	{"POST", "/api/v1/devices/:id/credentials", "/api/v1/devices/DEVICE/credentials", "", "401 403 404 403 403 201 201 404 401 401"},
	{"DELETE", "/api/v1/devices/:id/credentials/:credential", "/api/v1/devices/DEVICE/credentials/CREDENTIAL", "", "401 403 404 403 403 204 204 404 401 401"},
	{"GET", "/api/v1/devices/:id/rejects", "/api/v1/devices/d1/rejects", "", "401 403 404 403 403 200 200 404 401 401"},
	{"PATCH", "/api/v1/devices/:id/series/:metric", "/api/v1/devices/d1/series/temp", `{"unit":"K"}`, "401 403 404 403 403 200 200 404 401 401"},
	{"GET", "/api/v1/groups", "/api/v1/groups?stats=1", "", "401 200 200 200 200 200 200 200 401 401"},
	{"POST", "/api/v1/groups", "/api/v1/groups", `{"path":"plant1/NEW"}`, "401 403 403 403 403 201 201 403 401 401"},
	{"GET", "/api/v1/groups/+", "/api/v1/groups/plant1%2Fline2", "", "401 200 404 200 200 200 200 404 401 401"},
	{"PATCH", "/api/v1/groups/+", "/api/v1/groups/GROUP", `{"label":"x"}`, "401 403 404 403 403 200 200 404 401 401"},
	{"PATCH", "/api/v1/groups/+", "/api/v1/groups/GROUP", `{"retentionDays":30}`, "401 403 404 403 403 200 200 404 401 401"},
	{"DELETE", "/api/v1/groups/+", "/api/v1/groups/GROUP", "", "401 403 404 403 403 204 204 404 401 401"},
	{"DELETE", "/api/v1/groups/+", "/api/v1/groups/GROUP?devices=1", "", "401 403 404 403 403 204 204 404 401 401"},
	{"GET", "/api/v1/groups/+/stream", "/api/v1/groups/plant1/line2/stream?pace=x", "", "401 400 400 400 400 400 400 400 401 401"}, // its rights: dashboard/live
	{"GET", "/api/v1/series", "/api/v1/series?device=d1", "", "401 200 200 200 200 200 200 200 401 401"},
	{"GET", "/api/v1/history", "/api/v1/history?device=d1", "", "401 200 404 200 200 200 200 404 401 401"},
	{"GET", "/api/v1/metrics", "/api/v1/metrics", "", "401 200 200 200 200 200 200 200 401 401"},
	{"PATCH", "/api/v1/metrics/:metric", "/api/v1/metrics/temp", `{"high":90,"low":null}`, "401 403 403 403 403 403 200 403 401 401"},
	{"GET", "/api/v1/users", "/api/v1/users", "", "401 403 403 403 403 200 200 403 401 401"},
	{"POST", "/api/v1/users", "/api/v1/users", `{"email":"NEW@example.org","password":"long enough a secret"}`, "401 403 403 403 403 403 201 403 401 401"},
	{"GET", "/api/v1/users/:id", "/api/v1/users/USER", "", "401 404 404 404 404 200 200 404 401 401"},
	{"PATCH", "/api/v1/users/:id", "/api/v1/users/USER", `{"name":"x"}`, "401 404 404 404 404 403 200 404 401 401"},
	{"DELETE", "/api/v1/users/:id", "/api/v1/users/USER", "", "401 403 403 403 403 403 204 403 401 401"},
	{"GET", "/api/v1/bindings", "/api/v1/bindings", "", "401 403 403 403 403 200 200 403 401 401"},
	{"POST", "/api/v1/bindings", "/api/v1/bindings", `{"user":"USER","group":"plant1","role":"viewer"}`, "401 403 403 403 403 201 201 403 401 401"},
	{"DELETE", "/api/v1/bindings/:id", "/api/v1/bindings/BINDING", "", "401 404 404 404 404 204 204 404 401 401"},
	{"GET", "/api/v1/tokens", "/api/v1/tokens", "", "401 403 403 403 403 200 200 403 401 401"},
	{"POST", "/api/v1/tokens", "/api/v1/tokens", `{"name":"NEW","role":"viewer","group":"plant1"}`, "401 403 403 403 403 201 201 403 401 401"},
	{"DELETE", "/api/v1/tokens/:id", "/api/v1/tokens/TOKEN", "", "401 404 404 404 404 204 204 404 401 401"},
	{"GET", "/api/v1/audit", "/api/v1/audit", "", "401 403 403 403 403 403 200 403 401 401"},
	{"GET", "/api/v1/rejects", "/api/v1/rejects", "", "401 403 403 403 403 200 200 403 401 401"},
	{"GET", "/api/v1/system", "/api/v1/system", "", "401 403 403 403 403 403 200 403 401 401"},
	{"POST", "/api/v1/devices/:device/telemetry", "/api/v1/devices/d1/telemetry", `{"temp":1}`, "401 403 404 403 403 200 200 200 401 200"},
	{"POST", "/api/v1/telemetry", "/api/v1/telemetry", `[{"device":"d1","temp":1}]`, "401 403 403 403 403 200 200 200 401 401"},
	{"GET", "/live", "/live", "", "401 426 426 426 426 426 426 426 401 401"}, // its rights: dashboard/live
	{"GET", "/healthz", "/healthz", "", "200 200 200 200 200 200 200 200 200 200"},
	{"GET", "/readyz", "/readyz", "", "200 200 200 200 200 200 200 200 200 200"},
	{"GET", "/metrics", "/metrics", "", "200 200 200 200 200 200 200 200 200 200"},
	{"GET", "/openapi.json", "/openapi.json", "", "200 200 200 200 200 200 200 200 200 200"},
	{"GET", "/assets/*", "/assets/x/app.css", "", "200 200 200 200 200 200 200 200 200 200"},
	{"GET", "/debug/pprof/", "/debug/pprof/cmdline", "", "401 403 403 403 403 403 200 403 401 401"},
}

func TestEveryRouteForEveryRole(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	must(s.inventory.CreateGroup(ctx, system, devices.Group{Path: "plant1/line2"}))
	must(s.inventory.CreateGroup(ctx, system, devices.Group{Path: "plant2"}))
	_, device, err := s.inventory.CreateDevice(ctx, system, devices.Device{ID: "d1", State: devices.Active, Groups: []devices.GroupPath{"plant1"}})
	if err != nil {
		t.Fatal(err)
	}
	must(s.catalog.Device("d1").Series([]byte("temp"), devices.Float))
	soon := time.Now().Add(2 * time.Second) // six tokens are made before it, on a machine that may be busy
	roles := []struct{ name, secret string }{
		{"anonymous", ""},
		{"viewer here", s.token(devices.Viewer, "plant1", nil)},
		{"viewer elsewhere", s.token(devices.Viewer, "plant2", nil)},
		{"operator", s.token(devices.Operator, "plant1", nil)},
		{"editor", s.token(devices.Editor, "plant1", nil)},
		{"group admin", s.token(devices.Admin, "plant1", nil)},
		{"site admin", s.token(devices.Admin, devices.Site, nil)},
		{"ingest", s.token(devices.Ingest, "plant1", nil)},
		{"expired", s.token(devices.Admin, devices.Site, &soon)},
		{"device", device},
	}
	<-time.After(time.Until(soon) + time.Millisecond)
	known := map[string]bool{}
	for _, a := range access {
		known[a.method+" "+a.route] = true
		wants := strings.Fields(a.want)
		for i, role := range roles {
			path, body := s.fresh(a.request), a.body
			if body != "" {
				body = s.fresh(body)
			}
			resp, answer := s.do(a.method, path, role.secret, body)
			if got := fmt.Sprint(resp.StatusCode); got != wants[i] {
				t.Errorf("%s %s as %s: %s, want %s: %s", a.method, path, role.name, got, wants[i], answer)
			}
			if resp.StatusCode >= 400 && resp.Header.Get("Content-Type") != "application/problem+json" && resp.StatusCode != 422 {
				t.Errorf("%s %s as %s: %s answered as %s", a.method, path, role.name, resp.Status, resp.Header.Get("Content-Type"))
			}
		}
	}
	for _, r := range s.app.Fiber().GetRoutes(true) {
		if r.Method == http.MethodHead || strings.HasPrefix(r.Path, "/debug/pprof") {
			continue
		}
		if !known[r.Method+" "+r.Path] {
			t.Errorf("%s %s is not in the table", r.Method, r.Path)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	s := newSite(t)
	_, doc := s.do("GET", "/openapi.json", "", "")
	loaded, err := openapi3.NewLoader().LoadFromData(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Both directions; what browsers load and what programmers look at is not in the document.
	documented := api.Documented()
	var served []string
	for _, r := range s.app.Fiber().GetRoutes(true) {
		if r.Method != http.MethodHead && !strings.HasPrefix(r.Path, "/debug/pprof") && !strings.HasPrefix(r.Path, "/assets") {
			served = append(served, r.Method+" "+r.Path)
		}
	}
	for i := range documented {
		p := strings.NewReplacer("{group}", "+", "telemetry", "telemetry").Replace(documented[i][1])
		p = strings.NewReplacer("{", ":", "}", "").Replace(p)
		if strings.HasSuffix(p, ":id/telemetry") {
			p = strings.ReplaceAll(p, ":id", ":device")
		}
		route := documented[i][0] + " " + p
		at := slices.Index(served, route)
		if at < 0 {
			t.Errorf("%s is documented, but not served", route)
			continue
		}
		served = slices.Delete(served, at, at+1)
	}
	for _, r := range served {
		t.Errorf("%s is served, but not documented", r)
	}

	// Answers are what the document says.
	admin := s.token(devices.Admin, devices.Site, nil)
	check := func(method, path, route, body string, status int) []byte {
		t.Helper()
		resp, answer := s.do(method, path, admin, body)
		if resp.StatusCode != status {
			t.Fatalf("%s %s: %s %s", method, path, resp.Status, answer)
		}
		op := loaded.Paths.Find(route).GetOperation(method)
		ref := op.Responses.Status(status)
		if ref == nil {
			ref = op.Responses.Default()
		}
		kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		media := ref.Value.Content.Get(kind)
		if media == nil {
			t.Fatalf("%s %s: %s is not documented", method, path, kind)
		}
		var v any
		if err := json.Unmarshal(answer, &v); err != nil {
			t.Fatal(err)
		}
		if err := media.Schema.Value.VisitJSON(v); err != nil {
			t.Errorf("%s %s: %s: %v", method, path, answer, err)
		}
		return answer
	}
	get := func(path string) { t.Helper(); check("GET", path, path, "", 200) }
	check("POST", "/api/v1/groups", "/api/v1/groups", `{"path":"a/b","label":"B","tickMs":100}`, 201)
	check("POST", "/api/v1/groups", "/api/v1/groups", `{"path":"kept","retentionDays":400}`, 201)
	check("POST", "/api/v1/groups", "/api/v1/groups", `{"path":"a/b"}`, 409)
	check("POST", "/api/v1/groups", "/api/v1/groups", `{"path":"a//b"}`, 400)
	check("POST", "/api/v1/groups", "/api/v1/groups", `{"path":"c","colour":"red"}`, 400)
	check("GET", "/api/v1/groups?stats=1", "/api/v1/groups", "", 200)
	check("GET", "/api/v1/groups/a/b", "/api/v1/groups/{group}", "", 200)
	check("GET", "/api/v1/groups/a/c", "/api/v1/groups/{group}", "", 404)
	check("POST", "/api/v1/devices", "/api/v1/devices", `{"id":"d1","groups":["a/b"],"attributes":{"x":[1]},"expectedIntervalMs":500}`, 201)
	must(s.catalog.Device("d1").Series([]byte("temp"), devices.Float))
	check("GET", "/api/v1/devices/d1", "/api/v1/devices/{id}", "", 200)
	check("PATCH", "/api/v1/devices/d1", "/api/v1/devices/{id}", `{"groups":["a"],"attributes":{}}`, 200)
	check("POST", "/api/v1/devices/d1/credentials", "/api/v1/devices/{id}/credentials", `{}`, 201)
	check("GET", "/api/v1/devices/d1/credentials", "/api/v1/devices/{id}/credentials", "", 200)
	check("GET", "/api/v1/devices/d1/rejects", "/api/v1/devices/{id}/rejects", "", 200)
	check("PATCH", "/api/v1/devices/d1/series/temp", "/api/v1/devices/{id}/series/{metric}", `{"unit":"K","low":1.5}`, 200)
	check("PATCH", "/api/v1/metrics/temp", "/api/v1/metrics/{metric}", `{"unit":"°C","high":5}`, 200)
	check("POST", "/api/v1/users", "/api/v1/users", `{"email":"u@example.com","password":"long enough a secret"}`, 201)
	check("POST", "/api/v1/bindings", "/api/v1/bindings", `{"user":"u@example.com","group":"a","role":"viewer"}`, 201)
	check("POST", "/api/v1/tokens", "/api/v1/tokens", `{"name":"n","role":"ingest","group":"a"}`, 201)
	check("GET", "/api/v1/devices?limit=0", "/api/v1/devices", "", 400)
	check("GET", "/api/v1/devices?grp=a", "/api/v1/devices", "", 400)
	for _, path := range []string{"/api/v1/me", "/api/v1/devices", "/api/v1/series", "/api/v1/metrics", "/api/v1/users", "/api/v1/bindings", "/api/v1/tokens",
		"/api/v1/audit", "/api/v1/rejects", "/api/v1/system", "/readyz"} {
		get(path)
	}
	// A page and its next.
	check("POST", "/api/v1/devices", "/api/v1/devices", `{"id":"d2"}`, 201)
	var page struct {
		Items []struct{ ID string }
		Next  *string
	}
	_ = json.Unmarshal(check("GET", "/api/v1/devices?limit=1", "/api/v1/devices", "", 200), &page)
	if len(page.Items) != 1 || page.Next == nil {
		t.Fatalf("%+v", page)
	}
	_ = json.Unmarshal(check("GET", "/api/v1/devices?limit=1&after="+*page.Next, "/api/v1/devices", "", 200), &page)
	if len(page.Items) != 1 || page.Items[0].ID != "d2" {
		t.Fatalf("%+v", page)
	}
	_, csv := s.do("GET", "/api/v1/devices.csv", admin, "")
	resp, report := s.do("POST", "/api/v1/devices.csv?dryRun=1", admin, string(csv))
	if resp.StatusCode != 200 || !bytes.Contains(report, []byte(`"unchanged":2`)) {
		t.Errorf("importing what was exported: %s %s", resp.Status, report)
	}
}
