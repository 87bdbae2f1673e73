package event

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"millrace/devices/hubs"
)

// System events.
const (
	connect      = "connect"
	connected    = "connected"
	disconnected = "disconnected"
	joined       = "joined"
	left         = "left"
)

// system returns the handler of a system event.
func (d *Dispatcher) system(hub, event string) (hubs.Handler, bool) {
	hs := d.source.Hub(hub).Handlers
	i := slices.IndexFunc(hs, func(h hubs.Handler) bool { return contains(h.SystemEvents, event) })
	if i < 0 {
		return hubs.Handler{}, false
	}
	return hs[i], true
}

// Wants reports whether a handler or listener of the hub is told of a system event.
func (d *Dispatcher) Wants(hub, name string) bool { return wants(d.source.Hub(hub), name) }

func wants(s hubs.Settings, event string) bool {
	return slices.ContainsFunc(s.Handlers, func(h hubs.Handler) bool { return contains(h.SystemEvents, event) }) ||
		slices.ContainsFunc(s.Listeners, func(l hubs.Listener) bool { return contains(l.SystemEvents, event) })
}

// Takes reports whether a handler or listener of the hub takes a user event.
func (d *Dispatcher) Takes(hub, name string) bool {
	s := d.source.Hub(hub)
	return slices.ContainsFunc(s.Handlers, func(h hubs.Handler) bool { return Matches(h.UserEvents, name) }) ||
		slices.ContainsFunc(s.Listeners, func(l hubs.Listener) bool { return Matches(l.UserEvents, name) })
}

func contains(events []string, event string) bool {
	return slices.ContainsFunc(events, func(e string) bool { return strings.EqualFold(e, event) })
}

// Matches reports whether a list of names and patterns, with commas between, has the user event. "*" alone is all of them. In patterns *
// is any characters but dots, ** any characters, ? one character but a dot, and \ takes the meaning from the next. Case does not count.
func Matches(list, event string) bool {
	if strings.TrimSpace(list) == "*" {
		return true
	}
	for p := range strings.SplitSeq(list, ",") {
		p = strings.TrimSpace(p)
		if p == "" {
			continue
		}
		if !strings.ContainsAny(p, `*?\`) {
			if strings.EqualFold(p, event) {
				return true
			}
		} else if wild(strings.ToLower(p), strings.ToLower(event)) {
			return true
		}
	}
	return false
}

// wild matches one pattern, in time that is the product of the lengths.
func wild(p, s string) bool {
	pat, in := []rune(p), []rune(s)
	at := make([]bool, len(in)+1) // at[j]: what has been read of the pattern matches in[:j]
	at[0] = true
	for i := 0; i < len(pat); i++ {
		switch c := pat[i]; c {
		case '*':
			all := false
			for ; i+1 < len(pat) && pat[i+1] == '*'; i++ {
				all = true
			}
			for j := 1; j <= len(in); j++ {
				at[j] = at[j] || at[j-1] && (all || in[j-1] != '.')
			}
			continue
		case '\\':
			if i++; i == len(pat) || !strings.ContainsRune(`*?\`, pat[i]) {
				return false // no pattern
			}
			step(at, func(j int) bool { return in[j] == pat[i] })
		case '?':
			step(at, func(j int) bool { return in[j] != '.' })
		default:
			step(at, func(j int) bool { return in[j] == c })
		}
	}
	return at[len(in)]
}

// step reads one character.
func step(at []bool, is func(j int) bool) {
	for j := len(at) - 1; j > 0; j-- {
		at[j] = at[j-1] && is(j-1)
	}
	at[0] = false
}

var errTemplate = errors.New("URL of an event handler must be http, https or tunnel, and have no parameter in its host")

// resolve makes the URL of an event.
func resolve(template, hub, event string) (*url.URL, error) {
	u, err := url.Parse(fill(template, hub, event, escape))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTemplate, err)
	}
	if _, rest, ok := strings.Cut(template, "://"); ok {
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			rest = rest[:i]
		}
		if strings.ContainsAny(rest, "{}") {
			return nil, errTemplate
		}
	}
	switch u.Scheme {
	case "http", "https":
		if u.Host == "" {
			return nil, errTemplate
		}
	case "tunnel":
	default:
		return nil, errTemplate
	}
	u.Fragment = ""
	return u, nil
}

// fill replaces {hub} and {event}, in any case.
func fill(template, hub, event string, escape func(string) string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(template, '{')
		if i < 0 {
			break
		}
		b.WriteString(template[:i])
		template = template[i:]
		switch {
		case len(template) >= 5 && strings.EqualFold(template[:5], "{hub}"):
			b.WriteString(escape(hub))
			template = template[5:]
		case len(template) >= 7 && strings.EqualFold(template[:7], "{event}"):
			b.WriteString(escape(event))
			template = template[7:]
		default:
			b.WriteByte('{')
			template = template[1:]
		}
	}
	b.WriteString(template)
	return b.String()
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// token makes one token of a NATS subject.
func token(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, s)
}

// withoutQuery is a URL as it may stand in logs: secrets of handlers are in queries.
func withoutQuery(u string) string {
	u, _, _ = strings.Cut(u, "?")
	if scheme, rest, ok := strings.Cut(u, "://"); ok {
		host, path, _ := strings.Cut(rest, "/")
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			host = host[i+1:]
		}
		return scheme + "://" + host + "/" + path
	}
	return u
}
