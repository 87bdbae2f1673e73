package inventory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/postgres"
	"millrace/migrations/pgtest"
)

func TestMain(m *testing.M) {
	present = cost{memory: 64, time: 1, threads: 1} // what a hash costs is no matter here
	pgtest.Main(m)
}

var system = Caller{Principal: devices.System}

type site struct {
	*Inventory
	t   testing.TB
	cat *catalog.Catalog
}

func newSite(t testing.TB) site {
	t.Helper()
	store := postgres.New(pgtest.New(t))
	cat := catalog.New(catalog.Config{}, store)
	if err := cat.Load(context.Background()); err != nil {
		t.Fatal(err)
	}
	return site{New(store, cat), t, cat}
}

const password = "correct horse"

// user makes a user with roles written "role path".
func (s site) user(email string, roles ...string) Caller {
	s.t.Helper()
	u, err := s.CreateUser(context.Background(), system, devices.User{Email: email}, password)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range roles {
		role, path, _ := strings.Cut(r, " ")
		if _, err := s.CreateBinding(context.Background(), system, devices.Binding{User: u.ID, Role: devices.Role(role), Group: devices.GroupPath(path)}); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.caller(u.ID)
}

func (s site) caller(id string) Caller {
	return Caller{Principal: s.cat.Principal(devices.UserPrincipal, id), IP: "192.0.2.7"}
}

func (s site) device(id devices.ID, groups ...devices.GroupPath) {
	s.t.Helper()
	if _, _, err := s.CreateDevice(context.Background(), system, devices.Device{ID: id, Groups: groups}); err != nil {
		s.t.Fatal(err)
	}
}

//go:fix inline
func pointer[T any](v T) *T { return new(v) }

// Each use case by each kind of caller.
func TestRights(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	for _, p := range []devices.GroupPath{"p/x", "q"} {
		if _, err := s.CreateGroup(ctx, system, devices.Group{Path: p}); err != nil {
			t.Fatal(err)
		}
	}
	s.device("px", "p/x")
	s.device("pq", "p", "q")
	s.device("none")
	if _, err := s.cat.Device("px").Series([]byte("temp"), devices.Float); err != nil {
		t.Fatal(err)
	}
	victim := s.user("victim@example.com")
	callers := []Caller{ // in the order of the columns below
		s.user("site@example.com", "admin "),
		s.user("p-admin@example.com", "admin p"),
		s.user("p-editor@example.com", "editor p"),
		s.user("p-operator@example.com", "operator p"),
		s.user("p-viewer@example.com", "viewer p"),
		s.user("p-ingest@example.com", "ingest p"),
		s.user("q-admin@example.com", "admin q"),
		s.user("nobody@example.com"),
		{},
	}
	letter := func(err error) string {
		switch {
		case err == nil:
			return "+"
		case errors.Is(err, devices.ErrForbidden):
			return "f"
		case errors.Is(err, devices.ErrNotFound):
			return "n"
		case errors.Is(err, devices.ErrUnauthorized):
			return "u"
		}
		return "(" + err.Error() + ")"
	}
	count := 0
	// + allowed, f forbidden, n not there for this caller, u not signed in
	f := func(name, want string, call func(c Caller, n int) error) {
		t.Helper()
		var got strings.Builder
		for _, c := range callers {
			count++
			got.WriteString(letter(call(c, count)))
		}
		if got.String() != want {
			t.Errorf("%-22s %s, want %s", name, got.String(), want)
		}
	}
	id := func(n int) devices.ID { return devices.ID(fmt.Sprint("d", n)) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	label := func(n int) *string { return new(fmt.Sprint(n)) }

	// site, p: admin editor operator viewer ingest, q: admin, nobody, anonymous
	f("list devices", "++++++++u", func(c Caller, _ int) error { _, err := s.Devices(ctx, c, devices.DeviceFilter{}); return err })
	f("device in p/x", "+++++nnnu", func(c Caller, _ int) error { _, err := s.Device(ctx, c, "px"); return err })
	f("device in p and q", "+++++n+nu", func(c Caller, _ int) error { _, err := s.Device(ctx, c, "pq"); return err })
	f("device in none", "+nnnnnnnu", func(c Caller, _ int) error { _, err := s.Device(ctx, c, "none"); return err })
	f("create in p/x", "++fffff"+"fu", func(c Caller, n int) error {
		_, _, err := s.CreateDevice(ctx, c, devices.Device{ID: id(n), Groups: []devices.GroupPath{"p/x"}})
		return err
	})
	f("create in p and q", "+fffff"+"ffu", func(c Caller, n int) error {
		_, _, err := s.CreateDevice(ctx, c, devices.Device{ID: id(n), Groups: []devices.GroupPath{"p", "q"}})
		return err
	})
	f("create in none", "+fffffffu", func(c Caller, n int) error {
		_, _, err := s.CreateDevice(ctx, c, devices.Device{ID: id(n)})
		return err
	})
	f("edit in p/x", "++fffnnnu", func(c Caller, n int) error {
		_, err := s.UpdateDevice(ctx, c, "px", DevicePatch{Label: label(n)})
		return err
	})
	f("edit in p and q", "++fffn+nu", func(c Caller, n int) error {
		_, err := s.UpdateDevice(ctx, c, "pq", DevicePatch{Label: label(n)})
		return err
	})
	f("move p/x to q", "+ffffnnnu", func(c Caller, _ int) error {
		_, err := s.UpdateDevice(ctx, c, "px", DevicePatch{Groups: &[]devices.GroupPath{"q"}})
		if err == nil {
			_, err = s.UpdateDevice(ctx, system, "px", DevicePatch{Groups: &[]devices.GroupPath{"p/x"}})
		}
		return err
	})
	f("delete in p/x", "++fffnnnu", func(c Caller, n int) error {
		s.device(id(n), "p/x")
		return s.DeleteDevice(ctx, c, id(n))
	})
	f("delete in p and q", "+ffffnfnu", func(c Caller, n int) error {
		s.device(id(n), "p", "q")
		return s.DeleteDevice(ctx, c, id(n))
	})
	f("credentials", "++fffnnnu", func(c Caller, _ int) error { _, err := s.Credentials(ctx, c, "px"); return err })
	f("create credential", "++fffnnnu", func(c Caller, _ int) error {
		_, _, err := s.CreateCredential(ctx, c, "px", CredentialRequest{})
		return err
	})
	f("delete credential", "++fffnnnu", func(c Caller, _ int) error {
		cr, _, err := s.CreateCredential(ctx, system, "px", CredentialRequest{})
		must(err)
		return s.DeleteCredential(ctx, c, "px", cr.ID)
	})
	f("import", "++fffffffu"[:8]+"u", func(c Caller, n int) error {
		report, err := s.ImportDevices(ctx, c, strings.NewReader(fmt.Sprintf("id,groups\nimported-%d,p/x\n", n)), false)
		if len(report.Errors) > 0 {
			return devices.ErrForbidden
		}
		return err
	})
	f("export", "++++++++u", func(c Caller, _ int) error {
		return s.ExportDevices(ctx, c, new(bytes.Buffer), devices.DeviceFilter{})
	})
	f("groups", "++++++++u", func(c Caller, _ int) error { _, err := s.Groups(ctx, c); return err })
	f("group", "+++++nnnu", func(c Caller, _ int) error { _, err := s.Group(ctx, c, "p/x"); return err })
	f("create group in p", "++fffff"+"fu", func(c Caller, n int) error {
		_, err := s.CreateGroup(ctx, c, devices.Group{Path: devices.GroupPath(fmt.Sprint("p/g", n))})
		return err
	})
	f("create group on top", "+fffffffu", func(c Caller, n int) error {
		_, err := s.CreateGroup(ctx, c, devices.Group{Path: devices.GroupPath(fmt.Sprint("g", n))})
		return err
	})
	f("edit group", "++fffnnnu", func(c Caller, n int) error {
		_, err := s.UpdateGroup(ctx, c, "p/x", GroupPatch{Label: label(n)})
		return err
	})
	f("delete group", "++fffnnnu", func(c Caller, n int) error {
		p := devices.GroupPath(fmt.Sprint("p/del", n))
		_, err := s.CreateGroup(ctx, system, devices.Group{Path: p})
		must(err)
		return s.DeleteGroup(ctx, c, p, false)
	})
	f("series", "++++++++u", func(c Caller, _ int) error { _, err := s.Series(ctx, c, SeriesFilter{}); return err })
	f("edit series", "++fffnnnu", func(c Caller, n int) error {
		_, err := s.UpdateSeries(ctx, c, "px", "temp", Settings{Label: label(n)})
		return err
	})
	f("metrics", "++++++++u", func(c Caller, _ int) error { _, err := s.Metrics(ctx, c); return err })
	f("edit metric", "+fffffffu", func(c Caller, n int) error {
		_, err := s.UpdateMetric(ctx, c, "temp", Settings{Label: label(n)})
		return err
	})
	f("users", "++ffff+fu", func(c Caller, _ int) error { _, err := s.Users(ctx, c, devices.Page{}); return err })
	f("another user", "++nnnn+nu", func(c Caller, _ int) error { _, err := s.User(ctx, c, victim.ID); return err })
	f("create user", "+fffffffu", func(c Caller, n int) error {
		_, err := s.CreateUser(ctx, c, devices.User{Email: fmt.Sprintf("u%d@example.com", n)}, password)
		return err
	})
	f("edit another user", "+fnnnnfnu", func(c Caller, n int) error {
		_, err := s.UpdateUser(ctx, c, victim.ID, UserPatch{Name: label(n)})
		return err
	})
	f("edit one's own name", "++++++++u", func(c Caller, n int) error {
		me := "x"
		if c.Principal != nil {
			me = c.ID
		}
		_, err := s.UpdateUser(ctx, c, me, UserPatch{Name: label(n)})
		return err
	})
	f("enable oneself", "+fffffffu", func(c Caller, _ int) error {
		me := "x"
		if c.Principal != nil {
			me = c.ID
		}
		_, err := s.UpdateUser(ctx, c, me, UserPatch{Disabled: new(false)})
		return err
	})
	f("delete user", "+fffffffu", func(c Caller, n int) error {
		u, err := s.CreateUser(ctx, system, devices.User{Email: fmt.Sprintf("del%d@example.com", n)}, password)
		must(err)
		return s.DeleteUser(ctx, c, u.ID)
	})
	f("bindings", "++ffff+fu", func(c Caller, _ int) error { _, err := s.Bindings(ctx, c, "p", "", ""); return err })
	for _, role := range []devices.Role{devices.Viewer, devices.Admin, devices.Ingest} {
		f("give "+string(role)+" on p/x", "++fffff"+"fu", func(c Caller, _ int) error {
			b, err := s.CreateBinding(ctx, c, devices.Binding{User: victim.ID, Role: role, Group: "p/x"})
			if err == nil {
				err = s.DeleteBinding(ctx, c, b.ID)
			}
			return err
		})
		f("give "+string(role)+" on site", "+fffffffu", func(c Caller, _ int) error {
			b, err := s.CreateBinding(ctx, c, devices.Binding{User: victim.ID, Role: role})
			if err == nil {
				err = s.DeleteBinding(ctx, c, b.ID)
			}
			return err
		})
		f("token "+string(role)+" on p/x", "++fffff"+"fu", func(c Caller, _ int) error {
			_, _, err := s.CreateToken(ctx, c, TokenRequest{Name: "n", Role: role, Group: "p/x"})
			return err
		})
		f("token "+string(role)+" on site", "+fffffffu", func(c Caller, _ int) error {
			_, _, err := s.CreateToken(ctx, c, TokenRequest{Name: "n", Role: role})
			return err
		})
	}
	f("take a right on p", "++nnnnnnu", func(c Caller, _ int) error {
		b, err := s.CreateBinding(ctx, system, devices.Binding{User: victim.ID, Role: devices.Editor, Group: "p"})
		must(err)
		err = s.DeleteBinding(ctx, c, b.ID)
		if err != nil {
			must(s.DeleteBinding(ctx, system, b.ID))
		}
		return err
	})
	f("tokens", "++ffff+fu", func(c Caller, _ int) error { _, err := s.Tokens(ctx, c, devices.Page{}); return err })
	f("delete token on p", "++nnnnnnu", func(c Caller, _ int) error {
		made, _, err := s.CreateToken(ctx, system, TokenRequest{Name: "n", Role: devices.Viewer, Group: "p"})
		must(err)
		return s.DeleteToken(ctx, c, made.ID)
	})
	f("audit", "+fffffffu", func(c Caller, _ int) error { _, err := s.Audit(ctx, c, devices.AuditFilter{}); return err })
}

func TestListsHoldOnlyWhatOneMaySee(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	s.device("a", "p/x")
	s.device("b", "q")
	s.device("c")
	for _, id := range []devices.ID{"a", "b", "c"} {
		for _, metric := range []string{"temp", "m-" + string(id)} {
			if _, err := s.cat.Device(id).Series([]byte(metric), devices.Float); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := func(c Caller, groups []devices.GroupPath, wantDevices, wantGroups, wantSeries, wantMetrics string) {
		t.Helper()
		list, err := s.Devices(ctx, c, devices.DeviceFilter{Groups: groups})
		if err != nil {
			t.Fatal(err)
		}
		var got [4][]string
		for _, d := range list.Items {
			got[0] = append(got[0], string(d.ID))
		}
		all, _ := s.Groups(ctx, c)
		for _, g := range all {
			got[1] = append(got[1], string(g.Path))
		}
		filter := SeriesFilter{Page: devices.Page{Limit: 1}}
		for {
			series, _ := s.Series(ctx, c, filter)
			for _, one := range series.Items {
				got[2] = append(got[2], string(one.Device)+"/"+one.Metric)
			}
			if filter.After = series.Next; series.Next == "" {
				break
			}
		}
		metrics, _ := s.Metrics(ctx, c)
		for _, m := range metrics {
			got[3] = append(got[3], m.Name)
		}
		for i, want := range []string{wantDevices, wantGroups, wantSeries, wantMetrics} {
			if strings.Join(got[i], " ") != want {
				t.Errorf("%s: %v, want %s", c.Name, got[i], want)
			}
		}
	}
	f(system, nil, "a b c", "p p/x q", "a/m-a a/temp b/m-b b/temp c/m-c c/temp", "m-a m-b m-c temp")
	p := s.user("p@example.com", "viewer p")
	f(p, nil, "a", "p p/x", "a/m-a a/temp", "m-a temp")
	f(p, []devices.GroupPath{"q"}, "", "p p/x", "a/m-a a/temp", "m-a temp")
	f(p, []devices.GroupPath{devices.Site}, "a", "p p/x", "a/m-a a/temp", "m-a temp")
	f(p, []devices.GroupPath{"p/x", "q"}, "a", "p p/x", "a/m-a a/temp", "m-a temp")
	f(s.user("none@example.com"), nil, "", "", "", "")
	if one, err := s.Series(ctx, system, SeriesFilter{Search: "B/TE"}); err != nil || len(one.Items) != 1 || one.Items[0].Device != "b" {
		t.Errorf("search: %+v, %v", one, err)
	}
}

func TestChangesAreInForceAtOnce(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	d, token, err := s.CreateDevice(ctx, system, devices.Device{ID: "d", Groups: []devices.GroupPath{"p", "p"}})
	if err != nil || d.State != devices.Active || len(d.Groups) != 1 || !strings.HasPrefix(token, "mrd_") || len(token) != 36 {
		t.Fatalf("%+v, %q, %v", d, token, err)
	}
	if g := s.cat.Groups(); len(g) != 1 || g[0].Devices != 1 {
		t.Errorf("groups %+v", g)
	}
	_, credential, err := s.cat.DeviceByToken("d", token)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteCredential(ctx, system, "d", credential); err != nil || s.cat.CredentialValid("d", credential) {
		t.Errorf("revoked: %v", err)
	}
	print := sha256.Sum256([]byte("certificate"))
	if _, secret, err := s.CreateCredential(ctx, system, "d", CredentialRequest{Fingerprint: strings.ToUpper(hex.EncodeToString(print[:]))}); err != nil || secret != "" {
		t.Error(err)
	}
	if _, _, err := s.cat.DeviceByFingerprint(print); err != nil {
		t.Error(err)
	}
	for _, bad := range []CredentialRequest{{Fingerprint: "abc"}, {Expires: new(time.Now().Add(-time.Hour))}} {
		if _, _, err := s.CreateCredential(ctx, system, "d", bad); !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	viewer := s.user("v@example.com", "viewer p")
	if err := s.DeleteGroup(ctx, system, "p", false); err != nil {
		t.Fatal(err)
	}
	if now := s.caller(viewer.ID); now.Can(devices.Viewer, "p") || len(s.cat.DevicesIn("p")) != 0 || len(s.cat.Groups()) != 0 {
		t.Error("the group is still there")
	}
	if _, err := s.UpdateDevice(ctx, system, "d", DevicePatch{State: pointer(devices.Disabled)}); err != nil || s.cat.Device("d").State() != devices.Disabled {
		t.Errorf("disabled: %v", err)
	}
	if _, err := s.UpdateDevice(ctx, system, "d", DevicePatch{Label: new("a\x00b")}); !errors.Is(err, devices.ErrInvalid) {
		t.Errorf("NUL: %v", err)
	}
	api, secret, err := s.CreateToken(ctx, system, TokenRequest{Name: "ci", Role: devices.Ingest})
	if err != nil || !s.cat.PrincipalByToken(secret).Can(devices.Ingest, "x") || !strings.HasPrefix(secret, "mrt_") {
		t.Errorf("token %+v, %v", api, err)
	}
	if err := s.DeleteToken(ctx, system, api.ID); err != nil || s.cat.PrincipalByToken(secret) != nil {
		t.Errorf("deleted token: %v", err)
	}
	for range 2 {
		if err := s.EnsureToken(ctx, "admin-token", "a-secret-from-outside"); err != nil || !s.cat.PrincipalByToken("a-secret-from-outside").SiteAdmin() {
			t.Errorf("admin token: %v", err)
		}
	}
	if list, err := s.Tokens(ctx, system, devices.Page{}); err != nil || len(list.Items) != 0 {
		t.Errorf("tokens %+v, %v", list, err)
	}
	if list, err := s.Bindings(ctx, system, devices.Site, "", ""); err != nil || len(list) != 0 {
		t.Errorf("bindings %+v, %v", list, err)
	}
	if err := s.EnsureToken(ctx, "admin-token", ""); err != nil || s.cat.PrincipalByToken("a-secret-from-outside") != nil {
		t.Errorf("revoked admin token: %v", err)
	}
}

func TestSettings(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	s.device("d", "p")
	if _, err := s.cat.Device("d").Series([]byte("temp"), devices.Int); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateMetric(ctx, system, "temp", Settings{Unit: new("°C"), Low: new(new(1.0))}); err != nil {
		t.Fatal(err)
	}
	one, err := s.UpdateSeries(ctx, system, "d", "temp", Settings{High: new(new(9.0)), ExpectedInterval: pointer(time.Second)})
	if err != nil || one.Unit != "°C" || *one.Low != 1 || *one.High != 9 || one.ExpectedInterval != time.Second || one.Kind != devices.Int {
		t.Errorf("%+v, %v", one, err)
	}
	if one, err = s.UpdateSeries(ctx, system, "d", "temp", Settings{High: new(*float64)}); err != nil || one.High != nil {
		t.Errorf("cleared: %+v, %v", one, err)
	}
	if _, err := s.UpdateSeries(ctx, system, "d", "temp", Settings{Low: new(new(2.0)), High: new(new(1.0))}); !errors.Is(err, devices.ErrInvalid) {
		t.Errorf("low above high: %v", err)
	}
	if _, err := s.UpdateSeries(ctx, system, "d", "unknown", Settings{}); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("unknown series: %v", err)
	}
}

func TestCSV(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	s.device("old", "p")
	s.device("same", "p")
	s.device("secret", "q")
	admin := s.user("a@example.com", "admin p")
	file := "\ufeffid,label,groups,state,expectedIntervalMs,attributes\n" +
		"new,\"A, \"\"new\"\" one\",p/x; p/y,,1500,\"{\"\"a\"\":1}\"\n" +
		"old,Changed,p,disabled,,\n" +
		"same,,p,active,,\n" +
		"bad id,,p,,,\n" + // line 5
		"new,twice,p,,,\n" +
		"elsewhere,,q,,,\n" +
		"secret,,p,,,\n" +
		"late,,p,,soon,\n" +
		"short,p\n" +
		"json,,p,,,[1]\n"
	check := func(r ImportReport, err error, tokens int) {
		t.Helper()
		var lines strings.Builder
		for _, e := range r.Errors {
			lines.WriteString(fmt.Sprint(e.Line, " "))
		}
		if err != nil || r.Created != 1 || r.Updated != 1 || r.Unchanged != 1 || lines.String() != "5 6 7 8 9 10 11 " || len(r.Tokens) != tokens {
			t.Errorf("report %+v, %v", r, err)
		}
	}
	dry, err := s.ImportDevices(ctx, admin, strings.NewReader(file), true)
	check(dry, err, 0)
	if s.cat.Device("new") != nil {
		t.Error("a dry run wrote something")
	}
	wet, err := s.ImportDevices(ctx, admin, strings.NewReader(file), false)
	check(wet, err, 1)
	if _, _, err := s.cat.DeviceByToken("new", wet.Tokens[0].Token); err != nil {
		t.Error(err)
	}
	if d, _ := s.Device(ctx, admin, "new"); d.Label != `A, "new" one` || len(d.Groups) != 2 || d.ExpectedInterval != 1500*time.Millisecond {
		t.Errorf("new %+v", d)
	}
	var out bytes.Buffer
	if err := s.ExportDevices(ctx, admin, &out, devices.DeviceFilter{}); err != nil || strings.Contains(out.String(), "secret") {
		t.Errorf("export %s, %v", &out, err)
	}
	if again, err := s.ImportDevices(ctx, admin, &out, false); err != nil || again.Unchanged != 3 || again.Created+again.Updated+len(again.Errors) != 0 {
		t.Errorf("import of an export: %+v, %v", again, err)
	}
	for _, bad := range []string{"", "label\nx\n", "id,id\n", "id,colour\n", "id,\"label\nx"} {
		if _, err := s.ImportDevices(ctx, admin, strings.NewReader(bad), false); !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if r, err := s.ImportDevices(ctx, admin, strings.NewReader("id,groups\nx1,p\n\"x2,p\n"), false); err != nil || r.Created != 1 || len(r.Errors) != 1 {
		t.Errorf("broken half way: %+v, %v", r, err)
	}
}

func TestSignIn(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	generated, created, err := s.Bootstrap(ctx, " Admin@Example.com", "")
	if err != nil || !created || len(generated) != 20 {
		t.Fatal(generated, created, err)
	}
	if _, created, err := s.Bootstrap(ctx, "other@example.com", ""); err != nil || created {
		t.Errorf("second bootstrap: %v, %v", created, err)
	}
	in := func(email, password string, want error) string {
		t.Helper()
		secret, one, err := s.SignIn(ctx, email, password, "192.0.2.1", "agent\x00\xff")
		if !errors.Is(err, want) || err == nil && (len(secret) != 43 || one.CSRF == "") {
			t.Errorf("SignIn(%s) = %q, %+v, %v; want %v", email, secret, one, err, want)
		}
		return secret
	}
	first, second := in("admin@example.com", generated, nil), in("ADMIN@example.com ", generated, nil)
	in("admin@example.com", "wrong", devices.ErrUnauthorized)
	in("nobody@example.com", "wrong", devices.ErrUnauthorized)
	valid := func(secret string, want error) (devices.Session, *devices.Principal) {
		t.Helper()
		one, p, err := s.Session(ctx, secret)
		if !errors.Is(err, want) {
			t.Errorf("Session: %v, want %v", err, want)
		}
		return one, p
	}
	one, p := valid(first, nil)
	valid(second, nil)
	valid("unknown", devices.ErrUnauthorized)
	if !p.SiteAdmin() {
		t.Errorf("principal %+v", p)
	}
	me := Caller{Principal: p, IP: "192.0.2.1", Session: one.Hash}
	if err := s.ChangePassword(ctx, me, "wrong", "a new password"); !errors.Is(err, devices.ErrInvalid) {
		t.Errorf("wrong old password: %v", err)
	}
	if err := s.ChangePassword(ctx, me, generated, "short"); !errors.Is(err, devices.ErrInvalid) || !strings.HasPrefix(err.Error(), "new:") {
		t.Errorf("short password: %v", err)
	}
	if err := s.ChangePassword(ctx, me, generated, "a new password"); err != nil {
		t.Error(err)
	}
	valid(first, nil)
	valid(second, devices.ErrUnauthorized)
	in("admin@example.com", generated, devices.ErrUnauthorized)
	if err := s.SignOut(ctx, first); err != nil {
		t.Error(err)
	}
	if err := s.SignOut(ctx, first); err != nil {
		t.Errorf("again: %v", err)
	}
	valid(first, devices.ErrUnauthorized)

	// Disabling acts at once, and a disabled user can't come back in.
	other := s.user("o@example.com")
	secret := in("o@example.com", password, nil)
	valid(secret, nil)
	if _, err := s.UpdateUser(ctx, system, other.ID, UserPatch{Disabled: new(true)}); err != nil {
		t.Fatal(err)
	}
	valid(secret, devices.ErrUnauthorized)
	in("o@example.com", password, devices.ErrUnauthorized)
	entries, err := s.Audit(ctx, system, devices.AuditFilter{Action: "session.refuse", Object: "nobody@example.com"})
	if err != nil || len(entries.Items) != 1 || entries.Items[0].IP != "192.0.2.1" {
		t.Errorf("audit %+v, %v", entries, err)
	}
}

func TestGuessesAreThrottled(t *testing.T) {
	s := newSite(t)
	s.user("a@example.com")
	var wg sync.WaitGroup
	var mu sync.Mutex
	results := make(map[string]int)
	for range 30 { // at once: guesses must not slip through together
		wg.Go(func() {
			_, _, err := s.SignIn(context.Background(), "a@example.com", "wrong", "192.0.2.1", "")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, devices.ErrUnauthorized):
				results["refused"]++
			case errors.Is(err, devices.ErrRate):
				results["throttled"]++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if results["refused"] != emailBurst || results["throttled"] != 30-emailBurst {
		t.Errorf("%v", results)
	}
}

func TestThrottle(t *testing.T) {
	var th throttle
	now := time.Now()
	f := func(email, ip string, at time.Duration, want error) {
		t.Helper()
		if _, err := th.take(now.Add(at), email, ip); !errors.Is(err, want) {
			t.Errorf("%s from %s after %v: %v", email, ip, at, err)
		}
	}
	for range emailBurst {
		f("a", "192.0.2.1", 0, nil)
	}
	f("a", "192.0.2.2", 0, devices.ErrRate)
	f("b", "192.0.2.1", 0, nil)
	f("a", "192.0.2.2", emailRefill, nil)
	f("a", "192.0.2.2", emailRefill, devices.ErrRate)
	for i := range addrBurst {
		f(fmt.Sprint("c", i), fmt.Sprintf("2001:db8::%d", i+1), 0, nil)
	}
	f("d", "2001:db8::ffff", 0, devices.ErrRate)
	f("d", "2001:db8:0:1::1", 0, nil)
	for i := range 3 * maxBuckets {
		th.take(now, fmt.Sprint("e", i), fmt.Sprint(i))
	}
	if len(th.buckets) > maxBuckets+2 {
		t.Errorf("%d buckets", len(th.buckets))
	}
}

func TestPasswordHashes(t *testing.T) {
	v := New(nil, nil)
	phc, err := v.hashPassword(t.Context(), password)
	if err != nil || !strings.HasPrefix(phc, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatal(phc, err)
	}
	f := func(phc, password string, want bool) {
		t.Helper()
		if ok, err := v.checkPassword(t.Context(), phc, password); ok != want || err != nil {
			t.Errorf("checkPassword(%q, %q) = %v, %v", phc, password, ok, err)
		}
	}
	f(phc, password, true)
	f(phc, password+"x", false)
	f("", password, false)
	f("$argon2id$v=19$m=64,t=1,p=1$$", "", false)
	f(strings.Replace(phc, "argon2id", "argon2i", 1), password, false)
	// Made by the reference implementation's command line: echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1 -l 32
	f("$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password", true)
	for _, bad := range []string{"short", strings.Repeat("x", 2000), "not utf-8 \xff\xff"} {
		if _, err := v.hashPassword(t.Context(), bad); !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
