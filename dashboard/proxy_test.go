package dashboard

import "testing"

func TestClientBehindProxies(t *testing.T) {
	p := newProxies([]string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32"})
	f := func(forwarded, want string) {
		t.Helper()
		if got := p.client(forwarded); got != want {
			t.Errorf("%q: %q, want %q", forwarded, got, want)
		}
	}
	f("203.0.113.9", "203.0.113.9")
	f("6.6.6.6, 203.0.113.9", "203.0.113.9") // the client sent the first one itself
	f("6.6.6.6,203.0.113.9 , 10.1.2.3,192.0.2.1", "203.0.113.9")
	f("10.1.2.3, 192.0.2.1", "10.1.2.3") // a client in the proxies' own network
	f("203.0.113.9:4711", "203.0.113.9")
	f("[2001:db9::1]:4711, 2001:db8::5", "2001:db9::1")
	f("::ffff:203.0.113.9", "203.0.113.9")
	f("unknown, 10.1.2.3", "10.1.2.3")
	f("unknown", "")
	f(", ,", "")
	f("", "")
}
