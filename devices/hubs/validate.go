package hubs

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"millrace/devices"
)

// MaxListeners is how many listeners all hubs may have together.
const MaxListeners = 10

// Other limits of settings.
const (
	maxHandlers = 50
	maxURL      = 2048
	maxPattern  = 1024
)

var name = regexp.MustCompile("^[A-Za-z][A-Za-z0-9_`,.\\[\\]]{0,127}$")

// ValidName reports whether a hub can have a name.
func ValidName(s string) bool { return name.MatchString(s) }

// Events of the system, and which of them handlers and listeners can ask for.
var (
	handlerEvents  = []string{"connect", "connected", "disconnected", "joined", "left"}
	listenerEvents = handlerEvents[1:]
)

// Validate reports the first thing that can't be.
func (s *Settings) Validate() error {
	if !ValidName(s.Hub) {
		return devices.Invalid("hub", "must begin with a letter and have at most 128 letters, digits and _`,.[]")
	}
	if s.KeepAlive < time.Second || s.KeepAlive > 2*time.Minute {
		return devices.Invalid("keepAlive", "must be between 1 and 120 seconds")
	}
	if len(s.Handlers) > maxHandlers {
		return devices.Invalid("handlers", "are more than %d", maxHandlers)
	}
	for _, h := range s.Handlers {
		if err := checkURL("handlers", h.URL, "http", "https", "tunnel"); err != nil {
			return err
		}
		if err := checkEvents("handlers", h.UserEvents, h.SystemEvents, handlerEvents); err != nil {
			return err
		}
	}
	for _, l := range s.Listeners {
		if (l.Subject == "") == (l.URL == "") {
			return devices.Invalid("listeners", "need a NATS subject or a URL, and not both")
		}
		if l.URL != "" {
			if err := checkURL("listeners", l.URL, "http", "https"); err != nil {
				return err
			}
		} else if strings.ContainsAny(l.Subject, " \t\r\n*>") || len(l.Subject) > 255 || strings.HasPrefix(l.Subject, "millrace.") || strings.HasPrefix(l.Subject, "$") {
			return devices.Invalid("listeners", "subject %q can't be published to: no blanks or wildcards, and not below millrace. or $", l.Subject)
		}
		if err := checkEvents("listeners", l.UserEvents, l.SystemEvents, listenerEvents); err != nil {
			return err
		}
	}
	for _, m := range s.Telemetry {
		if (m.Event == "") == (m.Group == "") {
			return devices.Invalid("telemetry", "needs an event or a group, and not both")
		}
		if m.Device == "" {
			return devices.Invalid("telemetry", "needs the device, such as {userId}")
		}
	}
	return nil
}

// checkURL checks a template of which {hub} and {event} will be replaced, but not in the host.
func checkURL(field, template string, schemes ...string) error {
	if len(template) > maxURL {
		return devices.Invalid(field, "have a URL of more than %d characters", maxURL)
	}
	u, err := url.Parse(strings.NewReplacer("{hub}", "hub", "{event}", "event").Replace(template))
	if err != nil || !slices.Contains(schemes, u.Scheme) || (u.Host == "") != (u.Scheme == "tunnel") || u.User != nil {
		return devices.Invalid(field, "URL %q must begin with %s:// and name a host (tunnel:///path none)", template, strings.Join(schemes, ":// or "))
	}
	if raw, err := url.Parse(strings.NewReplacer("{", "%7B", "}", "%7D").Replace(template)); err != nil || strings.Contains(raw.Host, "%") {
		return devices.Invalid(field, "URL %q has a parameter in its host", template)
	}
	return nil
}

func checkEvents(field, user string, system, known []string) error {
	if len(user) > maxPattern {
		return devices.Invalid(field, "have a list of user events of more than %d characters", maxPattern)
	}
	for _, e := range system {
		if !slices.Contains(known, e) {
			return devices.Invalid(field, "system event %q is not one of %s", e, strings.Join(known, ", "))
		}
	}
	if user == "" && len(system) == 0 {
		return devices.Invalid(field, "without any event are for nothing: name user events, such as *, or system events")
	}
	return nil
}
