package event

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"millrace/devices/hubs"
	"millrace/fanout/hub"
)

func TestRetries(t *testing.T) {
	f := func(name string, answers []int, wantCalls int, wantStatus int, wantTook time.Duration) {
		t.Helper()
		calls, ids := 0, map[string]bool{}
		w := func(w http.ResponseWriter, r *http.Request) error {
			ids[r.Header.Get("ce-id")+r.Header.Get("x-ms-client-request-id")+r.Header.Get("ce-time")] = true
			a := answers[min(calls, len(answers)-1)]
			calls++
			switch a {
			case 0:
				return errGone
			case 1:
				<-r.Context().Done()
				return r.Context().Err()
			}
			w.WriteHeader(a)
			return nil
		}
		bubble(t, Config{}, one("http://h/"), w, func(t *testing.T, d *Dispatcher, _ *letters, _ func()) {
			start := time.Now()
			a, err := d.User(t.Context(), client("c", 1), "e", hub.Data{}, nil)
			status := 0
			if r, ok := errors.AsType[*Refused](err); ok {
				status = r.Status
			} else if err == nil {
				status = a.Status
			}
			if calls != wantCalls || status != wantStatus || time.Since(start) != wantTook || len(ids) != 1 {
				t.Errorf("%s: %d calls, status %d, took %v, ids %v, %v", name, calls, status, time.Since(start), ids, err)
			}
			if s := d.Stats(); s.Retried != uint64(wantCalls-1) || s.Open != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	f("500, then 200", []int{500, 408, 200}, 3, 200, 4*time.Second)
	f("500", []int{503}, 4, 503, 9*time.Second)
	f("gone", []int{0}, 4, 500, 9*time.Second)
	f("back", []int{0, 204}, 2, 204, time.Second)
	f("hangs", []int{1}, 4, 500, 409*time.Second)
	f("429", []int{429}, 1, 429, 0)
	f("404", []int{404}, 1, 404, 0)
}

func TestConsent(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	origins, status, down := []string{"*"}, 200, false
	w := func(w http.ResponseWriter, r *http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Method)
		if down {
			return errGone
		}
		if r.Method != http.MethodPost {
			for _, o := range origins {
				w.Header().Add("WebHook-Allowed-Origin", o)
			}
			if r.Method == http.MethodOptions || status != 404 {
				w.WriteHeader(status)
			}
		}
		return nil
	}
	f := func(want string, do func(t *testing.T, d *Dispatcher, user func() error)) {
		t.Helper()
		asked, origins, status, down = nil, []string{"*"}, 200, false
		s := one("http://h/{event}")
		s["chat"].Handlers[0].Trusted = false
		bubble(t, Config{Origin: "hub.example", Attempts: 1}, s, w, func(t *testing.T, d *Dispatcher, _ *letters, _ func()) {
			do(t, d, func() error {
				_, err := d.User(t.Context(), client("c", 1), "e", hub.Data{}, nil)
				synctest.Wait()
				return err
			})
			if g := strings.Join(asked, " "); g != want {
				t.Errorf("asked %s, want %s", g, want)
			}
		})
	}
	is := func(err error, ok bool) {
		t.Helper()
		if (err == nil) != ok {
			t.Error(err)
		}
	}
	f("OPTIONS POST POST POST OPTIONS POST", func(_ *testing.T, _ *Dispatcher, user func() error) { // once a minute, in the background
		is(user(), true)
		is(user(), true)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		is(user(), true)
		mu.Lock()
		if asked[3] == "OPTIONS" { // either may be first
			asked[3], asked[4] = asked[4], asked[3]
		}
		mu.Unlock()
		is(user(), true)
	})
	for _, o := range [][]string{{"a, hub.example"}, {"a", "HUB.example:443"}} {
		f("OPTIONS POST", func(_ *testing.T, _ *Dispatcher, user func() error) { origins = o; is(user(), true) })
	}
	for _, o := range [][]string{{"other.example"}, nil, {"xhub.example"}} {
		f("OPTIONS OPTIONS OPTIONS POST", func(_ *testing.T, _ *Dispatcher, user func() error) {
			origins = o
			is(user(), false)
			is(user(), false) // is not asked again so soon
			time.Sleep(time.Second)
			synctest.Wait()
			is(user(), false)
			time.Sleep(time.Second)
			synctest.Wait()
			is(user(), false)
			origins = []string{"*"}
			time.Sleep(time.Second)
			synctest.Wait()
			is(user(), true)
		})
	}
	f("OPTIONS GET POST", func(_ *testing.T, _ *Dispatcher, user func() error) { status = 404; is(user(), true) })
	f("OPTIONS", func(_ *testing.T, _ *Dispatcher, user func() error) { status = 403; is(user(), false) })
	f("OPTIONS POST POST OPTIONS POST", func(_ *testing.T, _ *Dispatcher, user func() error) { // one that is away keeps what it gave
		is(user(), true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		mu.Lock()
		down = true
		mu.Unlock()
		is(user(), false)
		mu.Lock()
		down = false
		if asked[2] == "OPTIONS" {
			asked[2], asked[3] = asked[3], asked[2]
		}
		mu.Unlock()
		is(user(), true)
	})
	f("OPTIONS POST POST OPTIONS", func(_ *testing.T, _ *Dispatcher, user func() error) { // one that takes it back gets no more
		is(user(), true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		mu.Lock()
		origins = nil
		mu.Unlock()
		is(user(), true)
		mu.Lock()
		if asked[2] == "OPTIONS" {
			asked[2], asked[3] = asked[3], asked[2]
		}
		mu.Unlock()
		is(user(), false)
	})
	f("OPTIONS POST POST POST", func(t *testing.T, d *Dispatcher, _ func() error) { // many ask once
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, err := d.User(t.Context(), client("c", 1), "e", hub.Data{}, nil)
				is(err, true)
			})
		}
		wg.Wait()
	})
}

// seen is what handlers took, by connection.
type seen struct {
	mu  sync.Mutex
	all map[string][]string
}

func (s *seen) add(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[string][]string{}
	}
	k := r.Header.Get("ce-hub") + "/" + r.Header.Get("ce-connectionId")
	s.all[k] = append(s.all[k], r.Header.Get("ce-id"))
}

func (s *seen) of(k string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all[k], " ")
}

// Notifications of a connection come in order, though the handler fails now and then, is gone for a while and returns.
func TestOrder(t *testing.T) {
	var s seen
	var mu sync.Mutex
	down, n := true, 0
	w := func(w http.ResponseWriter, r *http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return errGone
		}
		if n++; n%3 == 0 {
			w.WriteHeader([]int{500, 429, 408}[n/3%3])
			return nil
		}
		s.add(r)
		return nil
	}
	bubble(t, Config{Calls: 4}, one("http://h/"), w, func(t *testing.T, d *Dispatcher, l *letters, _ func()) {
		for i := range 20 {
			for c := range 50 {
				d.Joined(client(fmt.Sprint(c), uint64(i)), "g")
			}
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if st := d.Stats(); st.Waiting != 1000 || st.WaitingBytes == 0 || st.Sent != 0 {
			t.Errorf("%+v", st)
		}
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		for c := range 50 {
			if g := s.of("chat/" + fmt.Sprint(c)); g != "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19" {
				t.Errorf("%d: %s", c, g)
			}
		}
		if st := d.Stats(); st.Waiting != 0 || st.WaitingBytes != 0 || st.Sent != 1000 || st.Dead != 0 || len(l.list()) != 0 {
			t.Errorf("%+v", st)
		}
		if len(d.notices.lanes)+len(d.notices.targets)+len(d.notices.shares) != 0 {
			t.Error("something is kept")
		}
	})
}

func TestDeadLetters(t *testing.T) {
	status := 0
	w := func(w http.ResponseWriter, _ *http.Request) error {
		if status == 0 {
			return errGone
		}
		w.WriteHeader(status)
		return nil
	}
	bubble(t, Config{Keep: 10 * time.Minute}, one("http://h/x"), w, func(t *testing.T, d *Dispatcher, l *letters, _ func()) {
		why := "bye"
		d.Connected(client("c", 1))
		d.Disconnected(client("c", 2), &why, nil)
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if len(l.list()) != 0 {
			t.Error(l.list())
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		all := l.list()
		if len(all) != 2 || all[0].Event != connected || all[1].Event != disconnected {
			t.Fatal(all)
		}
		if x := all[1]; x.Hub != "chat" || x.Connection != "c" || x.User != "u" || x.ID != "2" || x.URL != "http://h/x" ||
			string(x.Body) != `{"reason":"bye"}` || !strings.Contains(x.Reason, "refused") || all[0].Attempts < 5 {
			t.Errorf("%+v", x)
		}
		status = 404 // says no, so at once
		d.Connected(client("e", 1))
		synctest.Wait()
		if all := l.list(); len(all) != 3 || all[2].Reason != "answered 404" || all[2].Attempts != 1 {
			t.Error(all)
		}
		if st := d.Stats(); st.Dead != 3 || st.Lost != 0 || st.Waiting != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// A handler that hangs fills the queue of its hub; other hubs, and calls to it that wait for an answer, are not held up by that.
func TestOthersUndisturbed(t *testing.T) {
	var s seen
	w := func(w http.ResponseWriter, r *http.Request) error {
		if r.URL.Host == "hangs" && strings.Contains(r.Header.Get("ce-type"), ".sys.") {
			<-r.Context().Done()
			return r.Context().Err()
		}
		s.add(r)
		return nil
	}
	all := one("http://hangs/")
	fine := one("http://fine/")["chat"]
	fine.Hub = "fine"
	all["fine"] = fine
	bubble(t, Config{QueueEvents: 100, Calls: 8}, all, w, func(t *testing.T, d *Dispatcher, l *letters, _ func()) {
		for i := range 120 {
			d.Connected(client(fmt.Sprint(i), 1))
		}
		synctest.Wait()
		if x := l.list(); len(x) != 20 || x[0].Attempts != 0 || x[0].Connection != "100" {
			t.Error(len(x))
		}
		c := client("f", 1)
		c.Hub = "fine"
		d.Connected(c)
		synctest.Wait() // no time passes
		if s.of("fine/f") != "1" {
			t.Error("the other hub waits")
		}
		if _, err := d.User(t.Context(), client("0", 2), "e", hub.Data{}, nil); err != nil {
			t.Error(err)
		}
		if _, err := d.User(t.Context(), c, "e", hub.Data{}, nil); err != nil {
			t.Error(err)
		}
	})
}

// Calls to one handler are bounded, and those of another hub have places of their own.
func TestCallsBounded(t *testing.T) {
	w := func(_ http.ResponseWriter, r *http.Request) error {
		if r.URL.Host == "fine" {
			return nil
		}
		<-r.Context().Done()
		return r.Context().Err()
	}
	all := one("http://hangs/")
	fine := one("http://fine/")["chat"]
	all["fine"] = fine
	bubble(t, Config{Calls: 3, Attempts: 1}, all, w, func(t *testing.T, d *Dispatcher, _ *letters, _ func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { _, _ = d.User(ctx, client("c", 1), "e", hub.Data{}, nil) })
		}
		synctest.Wait()
		if n := d.Stats().Open; n != 3 {
			t.Error(n)
		}
		if _, err := d.User(ctx, Client{Hub: "fine"}, "e", hub.Data{}, nil); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
		if len(d.gates.open) != 0 {
			t.Error(d.gates.open)
		}
	})
}

// What waits at the end is tried once more, and then kept as letters.
func TestShutdown(t *testing.T) {
	var s seen
	var mu sync.Mutex
	mode := "gone"
	w := func(w http.ResponseWriter, r *http.Request) error {
		mu.Lock()
		m := mode
		mu.Unlock()
		switch m {
		case "gone":
			return errGone
		case "hangs":
			<-r.Context().Done()
			return r.Context().Err()
		}
		s.add(r)
		return nil
	}
	f := func(at string, kept int, took time.Duration, broken bool) {
		t.Helper()
		mode = "gone"
		bubble(t, Config{}, one("http://h/"), w, func(t *testing.T, d *Dispatcher, l *letters, stop func()) {
			for i := range 3 {
				d.Connected(client("c", uint64(i)))
				d.Connected(client("d", uint64(i)))
			}
			time.Sleep(70 * time.Second) // both wait for another try
			synctest.Wait()
			mu.Lock()
			mode = at
			mu.Unlock()
			if broken {
				l.mu.Lock()
				l.err = errGone
				l.mu.Unlock()
			}
			start := time.Now()
			stop()
			if n := len(l.list()); n != kept || time.Since(start) != took {
				t.Errorf("%s: %d letters, took %v", at, n, time.Since(start))
			}
			if broken && d.Stats().Lost != 6 {
				t.Errorf("%+v", d.Stats())
			}
			d.Connected(client("late", 1))
			if d.Stats().Lost == 0 {
				t.Error("a late one is not counted")
			}
		})
	}
	f("fine", 0, 0, false)
	if s.of("chat/c") != "0 1 2" || s.of("chat/d") != "0 1 2" {
		t.Error(s.all)
	}
	f("gone", 6, 0, false)
	f("hangs", 6, 5*time.Second, false)
	f("hangs", 0, 10*time.Second, true)
}

func TestListeners(t *testing.T) {
	type message struct {
		subject, body string
		headers       map[string][]string
	}
	var mu sync.Mutex
	var got []message
	fails := 0
	publish := func(_ context.Context, subject string, h map[string][]string, body []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if fails > 0 {
			fails--
			return errGone
		}
		got = append(got, message{subject, string(body), h})
		return nil
	}
	var s seen
	w := func(w http.ResponseWriter, r *http.Request) error { s.add(r); return nil }
	src := source{"chat": {Hub: "chat", Listeners: []hubs.Listener{
		{Subject: "events.{hub}.{event}", UserEvents: "*", SystemEvents: []string{connected, disconnected}},
		{URL: "http://h/{event}", UserEvents: "other, room.*"},
	}}}
	synctest.Test(t, func(t *testing.T) {
		d := New(Config{QueueEvents: 10}, src, nil, publish, nil, quiet())
		d.client.Transport = wire(w)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = d.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		fails = 2
		state := "st"
		c := client("c", 3)
		c.State = &state
		a, err := d.User(ctx, c, "room.a", hub.Data{Kind: hub.JSON, Bytes: []byte(`1`)}, map[string]string{"k": "v"})
		if err != nil || a.Data != nil || a.Status != 0 {
			t.Error(a, err)
		}
		d.Connected(client("c", 4))
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(got) != 2 || got[0].subject != "events.chat.room_a" || got[0].body != "1" || got[1].subject != "events.chat.connected" || got[1].body != "{}" {
			t.Fatal(got)
		}
		h := got[0].headers
		for k, v := range map[string]string{
			"cloudEvents:specversion": "1.0", "cloudEvents:awpsversion": "1.0", "cloudEvents:type": "azure.webpubsub.user.room.a",
			"cloudEvents:source": "/hubs/chat/client/c", "cloudEvents:id": "3", "cloudEvents:hub": "chat", "cloudEvents:eventname": "room.a",
			"cloudEvents:connectionid": "c", "cloudEvents:userid": "u", "cloudEvents:connectionstate": "st",
			"cloudEvents:datacontenttype": "application/json", "x-webpubsub-metadata-k": "v",
		} {
			if len(h[k]) != 1 || h[k][0] != v {
				t.Errorf("%s: %q", k, h[k])
			}
		}
		if h["cloudEvents:subprotocol"] != nil || len(h["cloudEvents:time"]) != 1 {
			t.Error(h)
		}
		if s.of("chat/c") != "3" {
			t.Error(s.all)
		}
		if st := d.Stats(); st.Copied != 3 || st.CopiesFailed != 0 || st.Dead != 0 {
			t.Errorf("%+v", st)
		}
		mu.Lock()
		fails = 1 << 30
		mu.Unlock()
		for i := range 15 { // never blocks
			d.Connected(client("c", uint64(i)))
		}
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if st := d.Stats(); st.CopiesFailed != 15 || st.Dead != 0 || st.Waiting != 0 {
			t.Errorf("%+v", st)
		}
		if !d.Wants("chat", "connected") || d.Wants("chat", "joined") || !d.Takes("chat", "x") || d.Takes("none", "x") {
			t.Error("wants")
		}
	})
}

type tunnel func(hub, connection string, r *http.Request) (*http.Response, error)

func (f tunnel) Do(_ context.Context, hub, connection string, r *http.Request) (*http.Response, error) {
	return f(hub, connection, r)
}

func TestTunnel(t *testing.T) {
	s := one("tunnel:///hook/{event}")
	s["chat"].Handlers[0].Trusted = false // and yet there is no handshake
	d := New(Config{Attempts: 1}, s, nil, nil, tunnel(func(hub, connection string, r *http.Request) (*http.Response, error) {
		if hub != "chat" || connection != "c" || r.URL.String() != "tunnel:///hook/e" || r.Header.Get("ce-id") != "1" {
			t.Error(hub, connection, r.URL)
		}
		return &http.Response{StatusCode: 204, Header: http.Header{}, Body: http.NoBody}, nil
	}), quiet())
	if a, err := d.User(t.Context(), client("c", 1), "e", hub.Data{}, nil); err != nil || a.Status != 204 {
		t.Error(a, err)
	}
	d.tunnel = nil
	if _, err := d.User(t.Context(), client("c", 1), "e", hub.Data{}, nil); !errors.Is(err, errNoTunnel) {
		t.Error(err)
	}
}
