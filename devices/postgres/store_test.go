package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres/pgerr"
	"millrace/migrations/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

var admin = devices.Actor{Kind: devices.UserPrincipal, ID: "u1", Name: "admin@example.com", IP: "192.0.2.1"}

// Every statement is prepared on a migrated database: names and types fit.
func TestStatements(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range files {
		if !strings.HasSuffix(name, "_test.go") {
			f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, f)
		}
	}
	check := types.Config{Error: func(error) {}} // constants need no imports
	pkg, _ := check.Check("postgres", set, parsed, nil)
	conn, err := pgx.Connect(t.Context(), pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	statement, name := regexp.MustCompile(`(?s)^\s*(select|insert|update|delete)\s`), regexp.MustCompile(`@(\w+)`)
	prepared := 0
	for _, n := range pkg.Scope().Names() {
		c, ok := pkg.Scope().Lookup(n).(*types.Const)
		if !ok || c.Val().Kind() != constant.String || !statement.MatchString(constant.StringVal(c.Val())) {
			continue
		}
		sql, args := constant.StringVal(c.Val()), pgx.NamedArgs{}
		for _, found := range name.FindAllStringSubmatch(sql, -1) {
			args[found[1]] = nil
		}
		rewritten, _, err := args.RewriteQuery(t.Context(), conn, sql, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Prepare(t.Context(), n, rewritten); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		prepared++
	}
	if prepared < 50 {
		t.Errorf("only %d statements found", prepared)
	}
}

func mustDevice(t *testing.T, s *Store, id devices.ID, groups ...devices.GroupPath) devices.Device {
	t.Helper()
	d, err := s.CreateDevice(t.Context(), admin, devices.Device{ID: id, State: devices.Active, Groups: groups}, devices.Credential{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDevices(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	d, err := s.CreateDevice(ctx, admin, devices.Device{ID: "press-7", Label: "Press Ö", Type: "press", State: devices.Active, Attributes: json.RawMessage(`{"a": 1}`),
		Groups: []devices.GroupPath{"plant1/line2"}, ExpectedInterval: 1500 * time.Millisecond}, devices.Credential{Kind: devices.TokenCredential, Hint: "abcd", Hash: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	if d.ExpectedInterval != 1500*time.Millisecond || string(d.Attributes) != `{"a": 1}` || !slices.Equal(d.Groups, []devices.GroupPath{"plant1/line2"}) || d.CreatedAt.IsZero() || d.LastSeen != nil {
		t.Errorf("created %+v", d)
	}
	if groups, err := s.Groups(ctx); err != nil || len(groups) != 2 || groups[0].Path != "plant1" || groups[0].Devices != 1 {
		t.Errorf("groups made on the way: %+v, %v", groups, err)
	}
	if _, err := s.CreateDevice(ctx, admin, d, devices.Credential{}); !errors.Is(err, devices.ErrExists) {
		t.Errorf("again: %v", err)
	}
	refused := errors.New("refused")
	if _, err := s.UpdateDevice(ctx, admin, d.ID, func(d *devices.Device) error { d.Label = "x"; return refused }); !errors.Is(err, refused) {
		t.Errorf("refused change: %v", err)
	}
	now, err := s.UpdateDevice(ctx, admin, d.ID, func(d *devices.Device) error {
		d.Label, d.Groups, d.Attributes = "New", []devices.GroupPath{"other", "plant1"}, nil
		return nil
	})
	if err != nil || now.Label != "New" || !slices.Equal(now.Groups, []devices.GroupPath{"other", "plant1"}) || string(now.Attributes) != "{}" {
		t.Errorf("updated %+v, %v", now, err)
	}
	if _, err := s.UpdateDevice(ctx, admin, d.ID, func(*devices.Device) error { return nil }); err != nil {
		t.Error(err)
	}
	if _, err := s.Device(ctx, "unknown"); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	if err := s.DeleteDevice(ctx, admin, d.ID, func(devices.Device) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("refused delete: %v", err)
	}
	if err := s.DeleteDevice(ctx, admin, d.ID, func(devices.Device) error { return nil }); err != nil {
		t.Error(err)
	}
	entries, err := s.Audit(ctx, devices.AuditFilter{Object: "press-7", Action: "device."})
	if err != nil || len(entries.Items) != 3 {
		t.Fatalf("%d audit entries, want create, update, delete: %v", len(entries.Items), err)
	}
	if e := entries.Items[1]; e.Action != "device.update" || e.Actor != admin.Name || e.IP != admin.IP || !strings.Contains(string(e.Detail), `"New"`) {
		t.Errorf("audit %+v", e)
	}
	if first, err := s.Audit(ctx, devices.AuditFilter{Page: devices.Page{Limit: 2}}); err != nil || first.Next == "" {
		t.Errorf("first page of the audit: %+v, %v", first, err)
	} else if second, err := s.Audit(ctx, devices.AuditFilter{Page: devices.Page{After: first.Next}}); err != nil || len(second.Items) == 0 || second.Items[0].ID >= first.Items[1].ID {
		t.Errorf("second page of the audit: %+v, %v", second, err)
	}
}

func TestDevicesFilterAndPages(t *testing.T) {
	s := New(pgtest.New(t))
	for i := range 5 {
		mustDevice(t, s, devices.ID(fmt.Sprint("a", i)), "p_1/x")
	}
	mustDevice(t, s, "b", "p_1", "q")
	mustDevice(t, s, "c", "pA1/x") // "_" stands for nothing but itself
	mustDevice(t, s, "Z")
	f := func(filter devices.DeviceFilter, want string) {
		t.Helper()
		var got []string
		for {
			page, err := s.Devices(t.Context(), filter)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page.Items {
				got = append(got, string(d.ID))
			}
			if filter.After = page.Next; page.Next == "" {
				break
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%+v: %v, want %s", filter, got, want)
		}
	}
	f(devices.DeviceFilter{}, "Z a0 a1 a2 a3 a4 b c")
	f(devices.DeviceFilter{Page: devices.Page{Limit: 3}}, "Z a0 a1 a2 a3 a4 b c")
	f(devices.DeviceFilter{Page: devices.Page{Limit: 4}}, "Z a0 a1 a2 a3 a4 b c")
	f(devices.DeviceFilter{Groups: []devices.GroupPath{"p_1"}}, "a0 a1 a2 a3 a4 b")
	f(devices.DeviceFilter{Groups: []devices.GroupPath{"q", "pA1"}}, "b c")
	f(devices.DeviceFilter{Groups: []devices.GroupPath{}}, "")
	f(devices.DeviceFilter{Groups: []devices.GroupPath{devices.Site}}, "a0 a1 a2 a3 a4 b c")
	f(devices.DeviceFilter{Search: "A3"}, "a3")
	f(devices.DeviceFilter{State: devices.Disabled}, "")
	f(devices.DeviceFilter{Type: "press"}, "")
}

func TestGroupsNest(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	if _, err := s.CreateGroup(ctx, admin, devices.Group{Path: "a/b/c", Label: "C", Tick: time.Second}); err != nil {
		t.Fatal(err)
	}
	mustDevice(t, s, "d1", "a/b/c", "x")
	mustDevice(t, s, "d2", "a/b")
	mustDevice(t, s, "d3", "a-b")
	if g, err := s.Group(ctx, "a/b"); err != nil || g.Devices != 2 {
		t.Errorf("a/b: %+v, %v", g, err)
	}
	if g, err := s.UpdateGroup(ctx, admin, "a/b/c", func(g *devices.Group) error { g.Tick = 0; return nil }); err != nil || g.Tick != 0 || g.Label != "C" {
		t.Errorf("update: %+v, %v", g, err)
	}
	u, err := s.CreateUser(ctx, admin, devices.User{Email: "a@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []devices.GroupPath{"a/b/c", "a-b"} {
		if _, err := s.CreateBinding(ctx, admin, devices.Binding{User: u.ID, Group: p, Role: devices.Viewer}); err != nil {
			t.Fatal(err)
		}
	}
	left, _, err := s.DeleteGroup(ctx, admin, "a", false)
	if err != nil || !slices.Equal(left, []devices.ID{"d1", "d2"}) {
		t.Errorf("delete: %v, %v", left, err)
	}
	if d, err := s.Device(ctx, "d1"); err != nil || !slices.Equal(d.Groups, []devices.GroupPath{"x"}) {
		t.Errorf("d1 after its group went: %+v, %v", d, err)
	}
	if b, err := s.Bindings(ctx, devices.Site, u.ID, ""); err != nil || len(b) != 1 || b[0].Group != "a-b" {
		t.Errorf("bindings: %+v, %v", b, err)
	}
	if _, _, err := s.DeleteGroup(ctx, admin, "a", false); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	if _, err := s.CreateBinding(ctx, admin, devices.Binding{User: u.ID, Group: "a", Role: devices.Viewer}); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("binding on a group that is gone: %v", err)
	}
}

func TestTheLastSiteAdminStays(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	if created, err := s.CreateFirstAdmin(ctx, admin, devices.User{Email: "a@example.com", PasswordHash: "x"}); err != nil || !created {
		t.Fatal(created, err)
	}
	if created, err := s.CreateFirstAdmin(ctx, admin, devices.User{Email: "b@example.com"}); err != nil || created {
		t.Errorf("a second first admin: %v, %v", created, err)
	}
	a, err := s.UserByEmail(ctx, "a@example.com")
	if err != nil {
		t.Fatal(err)
	}
	bindings, err := s.Bindings(ctx, devices.Site, a.ID, "")
	if err != nil || len(bindings) != 1 {
		t.Fatal(bindings, err)
	}
	disable := func(u *devices.User) error { u.Disabled = true; return nil }
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("%s of the last site admin: %v", what, err)
		}
	}
	refused("delete", s.DeleteUser(ctx, admin, a.ID))
	refused("unbind", s.DeleteBinding(ctx, admin, bindings[0].ID))
	_, err = s.UpdateUser(ctx, admin, a.ID, disable, true, nil)
	refused("disable", err)

	b, err := s.CreateUser(ctx, admin, devices.User{Email: "b@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateBinding(ctx, admin, devices.Binding{User: b.ID, Role: devices.Admin}); err != nil {
		t.Fatal(err)
	}
	// Each takes the other's right away at once: one is left.
	var wg sync.WaitGroup
	for _, id := range []string{a.ID, b.ID} {
		wg.Go(func() {
			if err := s.DeleteUser(context.Background(), admin, id); err != nil && !errors.Is(err, devices.ErrInvalid) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if users, err := s.Users(ctx, devices.Page{}); err != nil || len(users.Items) != 1 {
		t.Errorf("%d users left, %v", len(users.Items), err)
	}
}

func TestUsersSessionsTokens(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	u, err := s.CreateUser(ctx, admin, devices.User{Email: "a@example.com", Name: "A", PasswordHash: "1"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateUser(ctx, admin, devices.User{Email: "a@example.com"}); !errors.Is(err, devices.ErrExists) {
		t.Errorf("same e-mail: %v", err)
	}
	for i, left := range []time.Duration{time.Hour, time.Hour, -time.Hour} {
		if err := s.CreateSession(ctx, admin, devices.Session{Hash: []byte{byte(i)}, User: u.ID, CSRF: "c", CreatedAt: time.Now(), Expires: time.Now().Add(left)}); err != nil {
			t.Fatal(err)
		}
	}
	valid := func(want ...bool) {
		t.Helper()
		for i, want := range want {
			if got, err := s.Session(ctx, []byte{byte(i)}); (err == nil) != want || err == nil && got.User != u.ID {
				t.Errorf("session %d: %+v, %v", i, got, err)
			}
		}
	}
	valid(true, true, false)
	if _, err := s.UpdateUser(ctx, admin, u.ID, func(u *devices.User) error { u.PasswordHash = "2"; return nil }, true, []byte{1}); err != nil {
		t.Fatal(err)
	}
	valid(false, true, false)
	if err := s.DeleteSession(ctx, []byte{1}); err != nil {
		t.Error(err)
	}
	valid(false, false, false)

	for i := range 3 {
		if _, err := s.CreateToken(ctx, admin, devices.APIToken{Name: "same", Role: devices.Ingest, Hash: []byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	secret := devices.APIToken{Name: "admin-token", Role: devices.Admin, Hash: []byte("secret")}
	for range 2 {
		if err := s.EnsureToken(ctx, admin, secret); err != nil {
			t.Fatal(err)
		}
	}
	secret.Hash = []byte("another")
	if err := s.EnsureToken(ctx, admin, secret); err != nil {
		t.Fatal(err)
	}
	access, err := s.LoadAccess(ctx)
	if err != nil || len(access.Tokens) != 4 || len(access.Bindings) != 4 || len(access.Users) != 1 {
		t.Errorf("access %+v, %v", access, err)
	}
	first, err := s.Tokens(ctx, devices.Page{Limit: 2}, nil)
	if err != nil || len(first.Items) != 2 {
		t.Fatal(first, err)
	}
	second, err := s.Tokens(ctx, devices.Page{After: first.Next}, nil)
	if err != nil || len(second.Items) != 1 || second.Next != "" {
		t.Errorf("second page: %+v, %v; hidden tokens are in no list", second, err)
	}
	if none, err := s.Tokens(ctx, devices.Page{}, []devices.GroupPath{"p"}); err != nil || len(none.Items) != 0 {
		t.Errorf("tokens below p: %+v, %v", none, err)
	}
	if err := s.DeleteToken(ctx, admin, first.Items[0].ID); err != nil {
		t.Error(err)
	}
}

func TestLoad(t *testing.T) {
	s, ctx := New(pgtest.New(t)), t.Context()
	mustDevice(t, s, "a", "p")
	mustDevice(t, s, "b")
	if _, err := s.CreateCredential(ctx, admin, devices.Credential{Device: "a", Kind: devices.TokenCredential, Hash: []byte{1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateCredential(ctx, admin, devices.Credential{Device: "b", Kind: devices.TokenCredential, Hash: []byte{1}}); !errors.Is(err, devices.ErrExists) {
		t.Errorf("a credential that is another's: %v", err)
	}
	high := 9.5
	if _, err := s.UpdateSeries(ctx, admin, "a", "temp", devices.Int, func(v *devices.Series) error {
		v.High, v.ExpectedInterval = &high, time.Minute
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateSeries(ctx, admin, "unknown", "temp", devices.Int, func(v *devices.Series) error { return nil }); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("series of an unknown device: %v", err)
	}
	if _, err := s.UpdateMetric(ctx, admin, "temp", func(m *devices.Metric) error { m.Unit = "°C"; return nil }); err != nil {
		t.Fatal(err)
	}
	c := catalog.New(catalog.Config{}, s)
	if err := c.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if v, groups, ok := c.Series(1); !ok || v.Unit != "°C" || *v.High != high || v.ExpectedInterval != time.Minute || v.Kind != devices.Int || len(groups) != 1 {
		t.Errorf("series %+v", v)
	}
	one, err := s.LoadDevices(ctx, []devices.ID{"a", "unknown"})
	if err != nil || len(one) != 1 || len(one[0].Credentials) != 1 || len(one[0].Series) != 1 {
		t.Errorf("LoadDevices: %+v, %v", one, err)
	}
}

func TestListen(t *testing.T) {
	s := New(pgtest.New(t))
	ctx, stop := context.WithCancel(t.Context())
	changes, connected := make(chan catalog.Change, 100), make(chan bool, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Listen(ctx, slog.New(slog.DiscardHandler), func(ch catalog.Change) { changes <- ch }, func() { connected <- true }); err != nil {
			t.Error(err)
		}
	})
	defer wg.Wait()
	defer stop()
	<-connected
	mustDevice(t, s, "a", "p")
	if ch := <-changes; ch.Topic != catalog.GroupsChanged {
		t.Errorf("first %+v", ch)
	}
	if ch := <-changes; ch.Topic != catalog.DevicesChanged || !slices.Equal(ch.Devices, []devices.ID{"a"}) {
		t.Errorf("then %+v", ch)
	}
	if _, err := s.pool.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where query = 'listen millrace'"); err != nil {
		t.Fatal(err)
	}
	<-connected
	many := make([]devices.ID, 500)
	for i := range many {
		many[i] = devices.ID(fmt.Sprint("device-with-a-long-name-", i))
	}
	if err := s.mutate(ctx, admin, func(m *mutation) error { m.changed(catalog.DevicesChanged, many...); return nil }); err != nil {
		t.Fatal(err)
	}
	if ch := <-changes; ch.Topic != catalog.DevicesChanged || ch.Devices != nil {
		t.Errorf("too many to name: %+v", ch)
	}
}

func TestUnavailable(t *testing.T) {
	pool := pgtest.New(t)
	s := New(pool)
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := pool.Config()
	config.ConnConfig.Host = "/nowhere"
	away, err := pgx.ConnectConfig(t.Context(), config.ConnConfig)
	if err == nil {
		away.Close(t.Context())
	}
	if !errors.Is(pgerr.Domain(err), devices.ErrUnavailable) {
		t.Errorf("no connection: %v", err)
	}
	if _, err := s.pool.Exec(t.Context(), "select pg_terminate_backend(pg_backend_pid())"); !errors.Is(pgerr.Domain(err), devices.ErrUnavailable) {
		t.Errorf("connection cut: %v", err)
	}
}

func TestDeletionDoomsHistory(t *testing.T) {
	pool := pgtest.New(t)
	s, ctx := New(pool), t.Context()
	mustDevice(t, s, "d1", "a/b")
	mustDevice(t, s, "d2", "a", "x")
	mustDevice(t, s, "d3", "x")
	if _, err := pool.Exec(ctx, `insert into history_series (device, metric) values ('d1', 'm'), ('d1', 'n'), ('d2', 'm'), ('d3', 'm'), ('gone', 'm')`); err != nil {
		t.Fatal(err)
	}
	f := func(series, doomed, generation int) {
		t.Helper()
		var got [3]int
		if err := pool.QueryRow(ctx, `select (select count(*) from history_series), (select count(*) from history_doomed), (select n from history_generation)`).Scan(&got[0], &got[1], &got[2]); err != nil {
			t.Fatal(err)
		}
		if got != [3]int{series, doomed, generation} {
			t.Errorf("%d series, %d doomed, generation %d; want %d, %d, %d", got[0], got[1], got[2], series, doomed, generation)
		}
	}
	f(5, 0, 0)
	if _, _, err := s.DeleteGroup(ctx, admin, "a/b", false); err != nil {
		t.Fatal(err)
	}
	f(5, 0, 0)
	if err := s.DeleteDevice(ctx, admin, "d1", func(devices.Device) error { return nil }); err != nil {
		t.Fatal(err)
	}
	f(3, 2, 1)
	left, deleted, err := s.DeleteGroup(ctx, admin, "x", true)
	if err != nil || !slices.Equal(left, []devices.ID{"d2"}) || !slices.Equal(deleted, []devices.ID{"d3"}) {
		t.Fatal(left, deleted, err)
	}
	f(2, 3, 2)
	if _, err := s.Device(ctx, "d3"); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("d3: %v", err)
	}
	entries, err := s.Audit(ctx, devices.AuditFilter{Object: "d3", Action: "device.delete"})
	if err != nil || len(entries.Items) != 1 {
		t.Errorf("audit of d3: %+v, %v", entries.Items, err)
	}
}
