package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// get does a GET with headers and returns the answer and its body; redirects are not followed.
func (s *server) get(path string, header map[string]string) (*http.Response, string) {
	s.t.Helper()
	req, err := http.NewRequest("GET", s.http+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res, string(body)
}

const browserAccept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

// An error is a page of ours to a person, and problem+json to a program; every answer says what browsers may do with it.
func TestErrorsAndHeaders(t *testing.T) {
	s := start(t)
	cookie := session(t, s, nil)
	if cookie.Secure {
		t.Error("the session cookie would never come back over plain HTTP")
	}
	signedIn := map[string]string{"Accept": browserAccept, "Cookie": cookie.Name + "=" + cookie.Value}

	page := func(path string, status int, header map[string]string) {
		t.Helper()
		res, body := s.get(path, header)
		if res.StatusCode != status || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
		}
		for _, want := range []string{"<!doctype html>", `rel="stylesheet"`, "<title>", "<h1", "<main"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: the page has no %s:\n%.600s", path, want, body)
			}
		}
		if strings.Contains(body, "<style") || strings.Contains(body, "<script>") || strings.Contains(body, " style=") || strings.Contains(body, " onclick=") {
			t.Errorf("%s: the page has styles or scripts of its own, which its policy forbids", path)
		}
		checkHeaders(t, path, res.Header)
	}
	page("/nothing/here", 404, signedIn)
	page("/g/nowhere", 404, signedIn)
	page("/devices/nobody", 404, signedIn)
	page("/admin/nothing", 404, signedIn)
	page("/nothing/here", 404, map[string]string{"Accept": browserAccept})
	page("/login", 200, map[string]string{"Accept": browserAccept})

	problem := func(path string, status int, header map[string]string) {
		t.Helper()
		res, body := s.get(path, header)
		var p struct {
			Type, Title, Instance string
			Status                int
		}
		if err := json.Unmarshal([]byte(body), &p); err != nil || res.StatusCode != status || p.Status != status || p.Type == "" || p.Title == "" ||
			res.Header.Get("Content-Type") != "application/problem+json" || p.Instance != "urn:request:"+res.Header.Get("X-Request-Id") {
			t.Errorf("%s %v: %d %s %s", path, header, res.StatusCode, res.Header.Get("Content-Type"), body)
		}
		checkHeaders(t, path, res.Header)
	}
	bearer := "Bearer " + adminToken
	problem("/nothing/here", 404, nil)
	problem("/nothing/here", 404, map[string]string{"Accept": "*/*"})
	problem("/nothing/here", 404, map[string]string{"Accept": "application/json"})
	problem("/nothing/here", 404, map[string]string{"Accept": browserAccept, "Authorization": bearer})
	problem("/api/v1/nothing", 404, map[string]string{"Accept": browserAccept, "Authorization": bearer})
	problem("/api/v1/devices/nobody", 404, map[string]string{"Authorization": bearer})
	problem("/api/v1/devices", 401, map[string]string{"Accept": browserAccept})

	// Who is not signed in is led there and back.
	if res, _ := s.get("/admin/devices?q=a", map[string]string{"Accept": browserAccept}); res.StatusCode != 303 || res.Header.Get("Location") != "/login?next=%2Fadmin%2Fdevices%3Fq%3Da" {
		t.Errorf("without a session: %d %s", res.StatusCode, res.Header.Get("Location"))
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/openapi.json"} {
		res, _ := s.get(path, nil)
		if res.StatusCode != 200 {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
		checkHeaders(t, path, res.Header)
	}
	_, body := s.get("/login", map[string]string{"Accept": browserAccept})
	_, rest, _ := strings.Cut(body, `rel="stylesheet"`)
	_, rest, _ = strings.Cut(rest, `href="`)
	sheet, _, _ := strings.Cut(rest, `"`)
	res, _ := s.get(sheet, nil)
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/css") || !strings.Contains(res.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("style sheet %q: %d %v", sheet, res.StatusCode, res.Header)
	}
	checkHeaders(t, sheet, res.Header)

	// Nobody is a proxy unless named: what says so is not believed.
	lies := map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.example", "Accept": browserAccept}
	res, body = s.get("/login", lies)
	checkHeaders(t, "/login with forged headers", res.Header)
	if strings.Contains(body, "evil.example") {
		t.Error("a forged host is on the page")
	}
	if c := session(t, s, http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-For": {"203.0.113.9"}}); c.Secure {
		t.Error("a forged scheme was believed")
	}
	if _, audit := s.callAs(adminToken, "GET", "/api/v1/audit", nil); strings.Contains(string(audit), "203.0.113.9") || !strings.Contains(string(audit), "127.0.0.1") {
		t.Errorf("a forged address was believed: %s", audit)
	}
}

// checkHeaders checks what every answer over plain HTTP must say.
func checkHeaders(t *testing.T, path string, h http.Header) {
	t.Helper()
	policy := h.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'self'", "object-src 'none'", "base-uri 'none'", "form-action 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("%s: the content security policy has no %s: %s", path, want, policy)
		}
	}
	if strings.Contains(policy, "unsafe") {
		t.Errorf("%s: content security policy %s", path, policy)
	}
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "same-origin",
		"Cross-Origin-Opener-Policy": "same-origin", "Strict-Transport-Security": "", "Server": ""} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", path, name, got, want)
		}
	}
}

// Behind a proxy that is named, the client's address, scheme and host are the ones it tells, but not what the client itself put before them.
func TestBehindProxy(t *testing.T) {
	s := start(t, "--http-trusted-proxies", "127.0.0.1,10.0.0.0/8")
	proxied := map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.1.2.3", "Accept": browserAccept}
	res, _ := s.get("/login", proxied)
	if res.Header.Get("Strict-Transport-Security") == "" {
		t.Error("HTTPS in front of a proxy without Strict-Transport-Security")
	}
	if res, _ := s.get("/login", map[string]string{"X-Forwarded-Proto": "http", "X-Forwarded-For": "203.0.113.9"}); res.Header.Get("Strict-Transport-Security") != "" {
		t.Error("HTTP in front of a proxy with Strict-Transport-Security")
	}
	header := http.Header{}
	for k, v := range proxied {
		header.Set(k, v)
	}
	if c := session(t, s, header); !c.Secure {
		t.Error("the session cookie behind HTTPS is not for HTTPS only")
	}
	_, audit := s.callAs(adminToken, "GET", "/api/v1/audit", nil)
	if !strings.Contains(string(audit), "203.0.113.9") || strings.Contains(string(audit), "6.6.6.6") || strings.Contains(string(audit), "10.1.2.3") {
		t.Errorf("the client's address in the audit log: %s", audit)
	}
}
