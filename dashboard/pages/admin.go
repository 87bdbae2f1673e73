package pages

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/devices"
)

// An AdminPage is what every page of the admin UI shares. The handlers fill it; templates only show it.
type AdminPage struct {
	Page
	Section   string // key of the entry in the navigation: "", "devices", "groups", …
	SiteAdmin bool
	Note      string    // what has just been done, after a redirect
	Error     string    // why the whole request failed; fields have their own in Errors
	Errors    Errors    // by field
	Now       time.Time // one clock for all ages on the page
}

// Errors says per field of a form, by its JSON name, what is wrong. Nil: nothing.
type Errors map[string]string

// An AdminSection is an entry of the admin navigation.
type AdminSection struct {
	Key, Label, Icon, Text string
	SiteOnly               bool // only site admins have a use for it
}

// AdminSections are the places of the admin UI in the order of the navigation.
var AdminSections = []AdminSection{
	{Key: "devices", Label: "Devices", Icon: "device", Text: "What publishes measurements: connect, edit, disable, credentials."},
	{Key: "groups", Label: "Groups", Icon: "group", Text: "Where devices belong. Rights and live pages follow groups."},
	{Key: "users", Label: "Users", Icon: "users", Text: "People who sign in."},
	{Key: "access", Label: "Access", Icon: "shield", Text: "Who has which role in which group."},
	{Key: "tokens", Label: "API tokens", Icon: "token", Text: "Keys for scripts, gateways and other programs."},
	{Key: "intake", Label: "Intake errors", Icon: "error", Text: "Messages that were refused, and why."},
	{Key: "audit", Label: "Audit", Icon: "audit", Text: "Who changed what, and when.", SiteOnly: true},
	{Key: "system", Label: "System", Icon: "system", Text: "Rates, connections, storage and versions.", SiteOnly: true},
}

// Roles in the order of what they may, as shown in forms.
var adminRoles = []struct {
	Role devices.Role
	Text string
}{
	{devices.Viewer, "sees live values"},
	{devices.Operator, "also sends commands and acknowledges"},
	{devices.Editor, "also edits dashboards"},
	{devices.Admin, "also manages devices, groups and members"},
	{devices.Ingest, "only writes measurements (for programs)"},
}

// Endpoints are this server's addresses as a device would write them.
type Endpoints struct {
	HTTP     string // base URL without a slash at the end, e.g. http://plant.example:8080
	Host     string // name of the MQTT broker
	MQTTPort string // "" when there is no embedded broker
	TLSPort  string // "" when it has no TLS
}

// DeviceForm holds what a person typed, as typed, so that a form can be shown again.
type DeviceForm struct {
	ID, Label, Type, State string
	Groups                 []string
	Attributes             string
	Interval               string // "10s", "" is learned
}

// Has reports whether the group is ticked.
func (f DeviceForm) Has(p devices.GroupPath) bool { return slices.Contains(f.Groups, string(p)) }

// FormOfDevice returns the form that shows a device.
func FormOfDevice(d devices.Device) DeviceForm {
	f := DeviceForm{ID: string(d.ID), Label: d.Label, Type: d.Type, State: string(d.State), Interval: Interval(d.ExpectedInterval)}
	for _, g := range d.Groups {
		f.Groups = append(f.Groups, string(g))
	}
	if a := strings.TrimSpace(string(d.Attributes)); a != "" && a != "{}" {
		var v any
		if json.Unmarshal(d.Attributes, &v) == nil {
			b, _ := json.MarshalIndent(v, "", "  ") // what has been decoded can be encoded
			a = string(b)
		}
		f.Attributes = a
	}
	return f
}

// DeviceListFilter is what the list of devices is filtered by, as typed.
type DeviceListFilter struct {
	Search, State, Type, Group string
	After                      string
}

// Query returns the filter as a query string with a leading question mark, on from a cursor.
func (f DeviceListFilter) Query(after string) string {
	return query("q", f.Search, "state", f.State, "type", f.Type, "group", f.Group, "after", after)
}

// Any reports whether the filter leaves anything out.
func (f DeviceListFilter) Any() bool { return f.Search+f.State+f.Type+f.Group != "" }

// A LiveValue is the present value of one series of a device.
type LiveValue struct {
	Metric, Unit string
	Sample       devices.Sample
	Stale        bool
}

// A Reject is a message that was refused.
type Reject struct {
	Device devices.ID
	At     time.Time
	Topic  string
	Head   []byte // first bytes of the payload
	Reason string
	Kind   string
}

// Payload returns the first bytes for a person: as text where they are text, else as hex. long also when they were cut.
func (r Reject) Payload() (text string, isHex bool) { return Printable(r.Head) }

// Printable shows bytes as text, or in hex when they are none. The last rune may have been cut in the middle.
func Printable(b []byte) (text string, isHex bool) {
	if len(b) == 0 {
		return "", false
	}
	t := b
	for cut := 0; cut < utf8.UTFMax && len(t) > 1 && !utf8.Valid(t); cut++ {
		t = t[:len(t)-1]
	}
	if !utf8.Valid(t) {
		return hexPairs(b), true
	}
	for _, r := range string(t) {
		if r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0x7f {
			return hexPairs(b), true
		}
	}
	return strings.Join(strings.Fields(string(t)), " "), false
}

func hexPairs(b []byte) string {
	s := hex.EncodeToString(b)
	var out strings.Builder
	for i := 0; i < len(s); i += 2 {
		if i > 0 {
			out.WriteByte(' ')
		}
		out.WriteString(s[i : i+2])
	}
	return out.String()
}

// Uptime is a duration in its two largest units.
func Uptime(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours()/24), int(d.Hours())%24)
}

// Interval writes an expected interval as forms read it: "500ms", "10s", "1h30m"; "" for none.
func Interval(d time.Duration) string {
	if d == 0 {
		return ""
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// ParseInterval reads what Interval writes, and a plain number as seconds.
func ParseInterval(s string) (time.Duration, bool) {
	s = strings.ReplaceAll(strings.TrimSpace(s), " ", "")
	if s == "" {
		return 0, true
	}
	if n, err := strconv.ParseFloat(strings.Replace(s, ",", ".", 1), 64); err == nil {
		if n < 0 || n > 1e9 || math.IsNaN(n) {
			return 0, false
		}
		return time.Duration(n * float64(time.Second)), true
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err == nil && n >= 0 && n < 1000
	}
	d, err := time.ParseDuration(strings.Replace(s, "min", "m", 1))
	return d, err == nil && d >= 0
}

// thousands writes a whole number with thin spaces between thousands.
func thousands[T int | int64 | uint64 | uint32](n T) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// Bytes writes a size with a binary prefix.
func Bytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if u == 0 || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, units[u])
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}

// perSecond writes a rate; negative means not known yet.
func perSecond(r float64) string {
	switch {
	case r < 0:
		return "–"
	case r < 10:
		return fmt.Sprintf("%.1f", r)
	}
	return thousands(int64(math.Round(r)))
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

func query(pairs ...string) string {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	if len(v) == 0 {
		return ""
	}
	return "?" + v.Encode()
}

func groupHref(page string, p devices.GroupPath) string {
	return "/admin/groups/" + page + "?path=" + url.QueryEscape(string(p))
}

func deviceHref(id devices.ID, more string) string {
	return "/admin/devices/" + url.PathEscape(string(id)) + more
}

// siteName is what the empty path is called on pages.
func groupName(p devices.GroupPath) string {
	if p == devices.Site {
		return "Whole site"
	}
	return string(p)
}
