// Package pages holds the templ components of all pages. Components take data, never stores: handlers in
// dashboard/operator and dashboard/admin fill them. No page has inline scripts or styles (CSP: default-src 'self').
package pages

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"millrace/devices"
)

// A Page is what Layout needs of every page.
type Page struct {
	Title  string                   // of the tab; also the last crumb when Trail is empty
	Trail  []Crumb                  // from the top down; the last is the page itself
	User   *User                    // nil: nobody is signed in
	CSRF   string                   // the session's token; forms send it back, htmx as a header
	Theme  string                   // "light", "dark", or "" for the system's; see Theme
	Asset  func(name string) string // URL of a bundle: web.Path
	Script string                   // bundle of this page beside app.js, such as "group.js"; "" for none
	HTMX   bool                     // load htmx (admin pages)
	Live   bool                     // the page has a live connection: show its state
	Side   []SideSection            // navigation at the left; nil for none
	Wide   bool                     // let the body use the whole width
}

// A User is who is signed in, as the header shows it.
type User struct {
	Name  string
	Email string
	Admin bool // may see the admin UI: holds admin somewhere
}

// Initials returns one or two letters for the round mark.
func (u User) Initials() string {
	name := u.Name
	if name == "" {
		name, _, _ = strings.Cut(u.Email, "@")
	}
	var out []rune
	for _, part := range strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == '.' || r == '-' || r == '_' }) {
		if len(out) < 2 {
			out = append(out, []rune(strings.ToUpper(part))[0])
		}
	}
	return string(out)
}

// A Crumb is one step of where one is. Href is empty for the page itself.
type Crumb struct {
	Label string
	Href  string
}

// A SideSection is a titled list of links at the left.
type SideSection struct {
	Title string
	Items []SideItem
}

// A SideItem is one link there.
type SideItem struct {
	Label   string
	Href    string
	Icon    string // a name of Icon
	Current bool
	Count   string // beside the label; "" for none
}

// Names of cookies and form fields that pages and handlers share.
const (
	ThemeCookie = "millrace_theme" // light or dark; absent: as the system
	CSRFField   = "csrf"           // hidden field of forms
	CSRFHeader  = "X-CSRF-Token"   // header of htmx and fetch
)

// Theme returns a cookie's value if it is a theme, else "".
func Theme(cookie string) string {
	if cookie == "light" || cookie == "dark" {
		return cookie
	}
	return ""
}

// GroupURL returns the live page of a group.
func GroupURL(p devices.GroupPath) string { return "/g/" + string(p) }

// DeviceURL returns the page of a device.
func DeviceURL(id devices.ID) string { return "/devices/" + string(id) }

// GroupTrail returns the crumbs down to a group.
func GroupTrail(p devices.GroupPath) []Crumb {
	trail := []Crumb{{Label: "Live", Href: "/"}}
	if p == devices.Site {
		return trail
	}
	parts := strings.Split(string(p), "/")
	for i, part := range parts {
		c := Crumb{Label: part}
		if i < len(parts)-1 {
			c.Href = "/g/" + strings.Join(parts[:i+1], "/")
		}
		trail = append(trail, c)
	}
	return trail
}

// Ago says how long ago that was, shortly: "now", "12 s", "3 m", "5 h", "9 d".
func Ago(t, now time.Time) string {
	d := now.Sub(t)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " d"
}

// Rate writes a number a second with about three digits.
func Rate(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', 2, 64) + " M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'f', 1, 64) + " k"
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 1, 64)
}

// Count writes n things: "1 device", "12 devices".
func Count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func htmxHeaders(csrf string) string { return `{"` + CSRFHeader + `":"` + csrf + `"}` }

// Number writes a value with the decimals it needs, at most six significant digits, and from a million on with an engineering
// prefix; as web/src/format.ts does.
func Number(v float64) string {
	a := math.Abs(v)
	for _, p := range []struct {
		at     float64
		suffix string
	}{{1e12, " T"}, {1e9, " G"}, {1e6, " M"}} {
		if a >= p.at {
			return minus(strconv.FormatFloat(v/p.at, 'f', 3, 64) + p.suffix)
		}
	}
	whole := 1
	if a >= 1 {
		whole = int(math.Floor(math.Log10(a))) + 1
	}
	most := max(0, 6-whole)
	scale := 1.0
	for d := 0; d <= most; d, scale = d+1, scale*10 {
		if x := a * scale; math.Abs(x-math.Round(x)) <= 1e-9*max(1, x) {
			return minus(strconv.FormatFloat(v, 'f', d, 64))
		}
	}
	return minus(strconv.FormatFloat(v, 'f', max(0, min(most, 4-whole)), 64))
}

func minus(s string) string {
	if rest, ok := strings.CutPrefix(s, "-"); ok {
		if strings.Trim(rest, "0.") == "" {
			return rest
		}
		return "−" + rest
	}
	return s
}

// ValueText writes the value of a sample as tables show it, without its unit.
func ValueText(s devices.Sample) string {
	switch s.Kind {
	case devices.Bool:
		return strconv.FormatBool(s.Value != 0)
	case devices.String:
		return s.Text
	case devices.Location:
		return fmt.Sprintf("%.5f, %.5f", s.Value, s.Lon)
	}
	return Number(s.Value)
}
