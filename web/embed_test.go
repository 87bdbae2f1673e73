package web

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func get(path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	for _, name := range []string{"app.js", "home.js", "group.js", "device.js", "htmx.js", "app.css", "icon.svg"} {
		w := get(Path(name))
		if w.Code != 200 || w.Body.Len() == 0 || !strings.Contains(w.Header().Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d, %d bytes, %q", name, w.Code, w.Body.Len(), w.Header().Get("Cache-Control"))
		}
	}
	if w := get(Prefix + "000000000000/app.js"); w.Code != 200 || w.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("older version: %d %q", w.Code, w.Header().Get("Cache-Control"))
	}
	if w := get(Path("app.css"), "Accept-Encoding", "br, gzip"); w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("Content-Type") != "text/css; charset=utf-8" {
		t.Errorf("compressed: %v", w.Header())
	}
	for _, path := range []string{Path("none.js"), Prefix, Prefix + "app.js", Path("../embed.go")} {
		if w := get(path); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// TestPolicy keeps what a content security policy of default-src 'self' forbids out of the bundles.
func TestPolicy(t *testing.T) {
	files, _ := bundle()
	for name, f := range files {
		if name == "htmx.js" { // its eval is off by configuration (allowEval)
			continue
		}
		for _, bad := range []string{"eval(", "new Function", "https://cdn", "http://"} {
			if i := strings.Index(string(f.body), bad); i >= 0 && !strings.HasPrefix(string(f.body)[i:], "http://www.w3.org/") {
				t.Errorf("%s contains %q", name, bad)
			}
		}
	}
}
