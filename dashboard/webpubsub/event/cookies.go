package event

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// How much a connection keeps. The oldest goes when there is more.
const (
	maxCookies     = 32
	maxCookieBytes = 4096
)

// Cookies are those that handlers set for one connection, so that a load balancer can send it to the same server again. They go back to
// the host that set them only. The zero value is ready.
type Cookies struct {
	mu   sync.Mutex
	list []cookie
}

type cookie struct {
	host, path, name, value string
	secure                  bool
	until                   time.Time // zero: as long as the connection
}

// write adds the cookies to a request.
func (c *Cookies) write(r *http.Request) {
	if c == nil {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.list {
		if k.host == r.URL.Host && under(r.URL.Path, k.path) && (!k.secure || r.URL.Scheme != "http") && (k.until.IsZero() || now.Before(k.until)) {
			r.AddCookie(&http.Cookie{Name: k.name, Value: k.value})
		}
	}
}

// read keeps those of an answer.
func (c *Cookies) read(u *url.URL, header http.Header) {
	if c == nil || len(header["Set-Cookie"]) == 0 {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, h := range (&http.Response{Header: header}).Cookies() {
		if i == maxCookies {
			break
		}
		if len(h.Name)+len(h.Value) > maxCookieBytes {
			continue
		}
		k := cookie{host: u.Host, path: h.Path, name: h.Name, value: h.Value, secure: h.Secure, until: h.Expires}
		if !strings.HasPrefix(k.path, "/") { // RFC 6265, 5.1.4
			k.path = u.Path[:max(strings.LastIndexByte(u.Path, '/'), 0)]
			if k.path == "" {
				k.path = "/"
			}
		}
		if h.MaxAge > 0 {
			k.until = now.Add(time.Duration(h.MaxAge) * time.Second)
		}
		for i, old := range c.list {
			if old.host == k.host && old.path == k.path && old.name == k.name {
				c.list = append(c.list[:i], c.list[i+1:]...)
				break
			}
		}
		if h.MaxAge < 0 || !k.until.IsZero() && !now.Before(k.until) {
			continue // deleted
		}
		if len(c.list) == maxCookies {
			c.list = append(c.list[:0], c.list[1:]...)
		}
		c.list = append(c.list, k)
	}
}

// under reports whether a cookie's path covers that of a request: RFC 6265, 5.1.4.
func under(path, of string) bool {
	if path == "" {
		path = "/"
	}
	return path == of || strings.HasPrefix(path, of) && (strings.HasSuffix(of, "/") || path[len(of)] == '/')
}
