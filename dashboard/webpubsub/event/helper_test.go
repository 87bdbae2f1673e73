package event

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"millrace/devices/hubs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var keys = hubs.Keys{Primary: "key", Secondary: "Jefe"}

type source map[string]hubs.Settings

func (s source) Hub(name string) hubs.Settings { return s[name] }
func (s source) Keys() hubs.Keys               { return keys }

// one is a hub that has one handler for everything.
func one(url string) source {
	return source{"chat": {Hub: "chat", Handlers: []hubs.Handler{{
		URL: url, UserEvents: "*", SystemEvents: []string{connect, connected, disconnected, joined, left}, Trusted: true,
	}}}}
}

type letters struct {
	mu  sync.Mutex
	all []hubs.Letter
	err error
}

func (l *letters) AddLetter(_ context.Context, x hubs.Letter) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.all = append(l.all, x)
	return nil
}

func (l *letters) list() []hubs.Letter {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]hubs.Letter(nil), l.all...)
}

// wire is a network without sockets, for tests in which time is faked.
type wire func(w http.ResponseWriter, r *http.Request) error

func (f wire) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	err := f(w, r)
	if err == nil {
		err = r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return w.Result(), nil
}

var errGone = errors.New("connection refused")

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// bubble runs f with a Dispatcher on a wire, in faked time.
func bubble(t *testing.T, c Config, s Source, w wire, f func(t *testing.T, d *Dispatcher, l *letters, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &letters{}
		d := New(c, s, l, nil, nil, quiet())
		d.client.Transport = w
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		stop := func() { cancel(); wg.Wait() }
		defer stop()
		f(t, d, l, stop)
	})
}

// serve runs a Dispatcher on the real network.
func serve(t *testing.T, c Config, s Source, publish Publish) (*Dispatcher, *letters) {
	t.Helper()
	l := &letters{}
	d := New(c, s, l, publish, nil, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return d, l
}

func server(t testing.TB, h http.HandlerFunc) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func client(id string, n uint64) Client { return Client{Hub: "chat", Connection: id, User: "u", ID: n} }
