package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"
	"go.uber.org/goleak"

	"millrace/dashboard/admin"
	"millrace/dashboard/auth"
	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/devices/inventory"
	"millrace/devices/postgres"
	"millrace/migrations/pgtest"
	"millrace/web"
)

func TestMain(m *testing.M) {
	pgtest.Main(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	)
}

var (
	ctx    = context.Background()
	system = inventory.Caller{Principal: devices.System}
)

const password = "correct horse battery"

// parts plays the rest of the server: what it would know of intake, values and itself.
type parts struct {
	rejects []pages.Reject
	values  map[devices.ID][]pages.LiveValue
	status  pages.SystemStatus
	sizes   map[devices.ID]int64 // samples recorded
	lost    int64                // by a retention that is not for ever
	mended  []string
}

func (p *parts) SizeOf(_ context.Context, ids []devices.ID) (sum devices.HistorySize, err error) {
	for _, id := range ids {
		if n := p.sizes[id]; n > 0 {
			sum.Add(devices.HistorySize{Samples: n, Bytes: 2 * n, Oldest: 1_767_225_600_000})
		}
	}
	return sum, nil
}
func (p *parts) SiteRetention() int { return 400 }
func (p *parts) LostByRetention(_ context.Context, _ devices.GroupPath, days *int) (devices.HistorySize, error) {
	if days != nil && *days == devices.Forever {
		return devices.HistorySize{}, nil
	}
	return devices.HistorySize{Samples: p.lost, Bytes: p.lost, Oldest: 1_767_225_600_000}, nil
}
func (p *parts) LostByDeletion(ctx context.Context, path devices.GroupPath) (devices.HistorySize, error) {
	return p.LostByRetention(ctx, path, nil)
}
func (p *parts) RetryParked(_ context.Context, id int64) error   { return p.mend("retry", id) }
func (p *parts) DiscardParked(_ context.Context, id int64) error { return p.mend("discard", id) }
func (p *parts) mend(what string, id int64) error {
	if id == 13 {
		return fmt.Errorf("the database refuses them still (unlucky): %w", devices.ErrInvalid)
	}
	p.mended = append(p.mended, fmt.Sprint(what, id))
	return nil
}

func (p *parts) Rejects(id devices.ID, limit int) []pages.Reject {
	var out []pages.Reject
	for _, r := range p.rejects {
		if (id == "" || r.Device == id) && len(out) < limit {
			out = append(out, r)
		}
	}
	return out
}
func (p *parts) DeviceValues(id devices.ID) []pages.LiveValue { return p.values[id] }
func (p *parts) Status(context.Context) pages.SystemStatus    { return p.status }

// A site is the admin UI over a real database.
type site struct {
	t         testing.TB
	app       *fiber.App
	inventory *inventory.Inventory
	catalog   *catalog.Catalog
	parts     *parts
}

func newSite(t testing.TB) *site {
	t.Helper()
	store := postgres.New(pgtest.New(t))
	cat := catalog.New(catalog.Config{}, store)
	if err := cat.Load(ctx); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, inventory: inventory.New(store, cat), catalog: cat, parts: &parts{values: map[devices.ID][]pages.LiveValue{}, sizes: map[devices.ID]int64{}}}
	s.parts.status = pages.SystemStatus{At: time.Now(), Started: time.Now().Add(-time.Hour), Spine: pages.SpineStatus{Healthy: true, MaxBytes: 1 << 30}, Database: pages.DatabaseStatus{OK: true}}
	a := auth.New(auth.Config{}, s.inventory, cat)
	s.app = fiber.New(fiber.Config{ErrorHandler: func(c *fiber.Ctx, err error) error {
		for is, status := range map[error]int{devices.ErrUnauthorized: 401, devices.ErrForbidden: 403, devices.ErrNotFound: 404} {
			if errors.Is(err, is) {
				return c.Status(status).SendString(err.Error())
			}
		}
		return c.Status(500).SendString(err.Error())
	}})
	s.app.Use(a.Middleware)
	s.app.Post("/login", func(c *fiber.Ctx) error {
		if err := a.SignIn(c, c.FormValue("email"), c.FormValue("password")); err != nil {
			return err
		}
		return c.SendString("ok")
	})
	admin.Register(s.app, admin.Deps{Inventory: s.inventory, Catalog: cat, System: s.parts, Intake: s.parts, Live: s.parts, History: s.parts, Asset: web.Path,
		Addresses: func() admin.Addresses { return admin.Addresses{MQTT: "0.0.0.0:1883"} }})
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) group(paths ...devices.GroupPath) {
	s.t.Helper()
	for _, p := range paths {
		_, err := s.inventory.CreateGroup(ctx, system, devices.Group{Path: p})
		s.must(err)
	}
}

func (s *site) device(id devices.ID, groups ...devices.GroupPath) {
	s.t.Helper()
	_, _, err := s.inventory.CreateDevice(ctx, system, devices.Device{ID: id, State: devices.Active, Groups: groups})
	s.must(err)
}

// A browser is somebody signed in.
type browser struct {
	s      *site
	cookie string
	csrf   string
	id     string
}

// signIn makes a user with a role and signs in.
func (s *site) signIn(email string, role devices.Role, group devices.GroupPath) *browser {
	s.t.Helper()
	u, err := s.inventory.CreateUser(ctx, system, devices.User{Email: email}, password)
	s.must(err)
	_, err = s.inventory.CreateBinding(ctx, system, devices.Binding{User: u.ID, Role: role, Group: group})
	s.must(err)
	secret, session, err := s.inventory.SignIn(ctx, email, password, "192.0.2.1", "test")
	s.must(err)
	return &browser{s: s, cookie: secret, csrf: session.CSRF, id: u.ID}
}

// An answer is what came back.
type answer struct {
	status int
	body   string
	header http.Header
}

func (b *browser) do(r *http.Request) answer {
	b.s.t.Helper()
	r.AddCookie(&http.Cookie{Name: auth.Cookie, Value: b.cookie})
	res, err := b.s.app.Test(r, 20_000)
	b.s.must(err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	b.s.must(err)
	return answer{res.StatusCode, string(body), res.Header}
}

func (b *browser) get(path string) answer {
	b.s.t.Helper()
	return b.do(httptest.NewRequest("GET", path, nil))
}

// post sends a form, fields as name, value, name, value.
func (b *browser) post(path string, fields ...string) answer {
	b.s.t.Helper()
	v := url.Values{"csrf": {b.csrf}}
	for i := 0; i < len(fields); i += 2 {
		v.Add(fields[i], fields[i+1])
	}
	r := httptest.NewRequest("POST", path, strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(r)
}

func (b *browser) upload(path, csv string) answer {
	b.s.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	b.s.must(w.WriteField("csrf", b.csrf))
	b.s.must(w.WriteField("step", "preview"))
	f, err := w.CreateFormFile("file", "devices.csv")
	b.s.must(err)
	fmt.Fprint(f, csv)
	b.s.must(w.Close())
	r := httptest.NewRequest("POST", path, &body)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return b.do(r)
}

// want checks the status and what must and (after "!") must not be in the page.
func (a answer) want(t testing.TB, status int, texts ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %.600s", a.status, status, a.body)
	}
	for _, text := range texts {
		if not, is := strings.CutPrefix(text, "!"); is {
			if strings.Contains(a.body, not) {
				t.Errorf("the page has %q", not)
			}
		} else if !strings.Contains(a.body, text) {
			t.Errorf("the page lacks %q", text)
		}
	}
}
