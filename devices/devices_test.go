package devices

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// field is the field that an error points at; "" for none.
func field(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*FieldError](err)
	if !ok || !errors.Is(err, ErrInvalid) {
		t.Errorf("%v is no FieldError", err)
		return "?"
	}
	return e.Field
}

func TestGroupPath(t *testing.T) {
	f := func(p GroupPath, valid bool) {
		t.Helper()
		if err := p.Validate(); (err == nil) != valid {
			t.Errorf("%q.Validate() = %v", p, err)
		}
	}
	f("plant1", true)
	f("plant1/line-2/press_3.a", true)
	f("1/2/3/4/5/6/7/8", true)
	f("1/2/3/4/5/6/7/8/9", false)
	f(GroupPath(strings.Repeat("x", 64)), true)
	f(GroupPath(strings.Repeat("x", 65)), false)
	for _, bad := range []GroupPath{"", "/", "/a", "a/", "a//b", "a b", "ä", "a/../b", ".", "a/stream", "stream", "a\x00", "a%2Fb"} {
		f(bad, false)
	}
	parts := func(p, parent GroupPath, name string) {
		t.Helper()
		if p.Parent() != parent || p.Name() != name {
			t.Errorf("%q: parent %q, name %q", p, p.Parent(), p.Name())
		}
	}
	parts("a/b/c", "a/b", "c")
	parts("a", Site, "a")
	parts(Site, Site, "")
	contains := func(p, q GroupPath, want bool) {
		t.Helper()
		if p.Contains(q) != want {
			t.Errorf("%q.Contains(%q) = %v", p, q, !want)
		}
	}
	contains("a", "a", true)
	contains("a", "a/b/c", true)
	contains("a", "ab", false)
	contains("a/b", "a", false)
	contains("a", Site, false)
	contains(Site, "a/b", true)
	contains(Site, Site, true)
	all := WithAncestors([]GroupPath{"a/b/c", "a/d", "a"})
	slices.Sort(all)
	if !slices.Equal(all, []GroupPath{"a", "a/b", "a/b/c", "a/d"}) {
		t.Errorf("WithAncestors = %v", all)
	}
}

func TestDeviceValidate(t *testing.T) {
	f := func(change func(d *Device), want string) {
		t.Helper()
		d := Device{ID: "press-7", State: Active, Groups: []GroupPath{"a/b"}, Attributes: json.RawMessage(`{}`)}
		change(&d)
		if got := field(t, d.Validate()); got != want {
			t.Errorf("%+v: field %q, want %q", d, got, want)
		}
	}
	f(func(*Device) {}, "")
	for _, id := range []ID{"", ".", "..", "a/b", "a+", "#", "a b", "ä", ID(strings.Repeat("x", 129))} {
		f(func(d *Device) { d.ID = id }, "id")
	}
	f(func(d *Device) { d.ID = ID(strings.Repeat("x", 128)) }, "")
	f(func(d *Device) { d.Label = "Presse Süd 7 µ" }, "")
	f(func(d *Device) { d.Label = strings.Repeat("x", 201) }, "label")
	f(func(d *Device) { d.Label = "a\x00" }, "label")
	f(func(d *Device) { d.Label = "a\xff" }, "label")
	f(func(d *Device) { d.Type = strings.Repeat("x", 101) }, "type")
	f(func(d *Device) { d.State = "" }, "state")
	f(func(d *Device) { d.Attributes = nil }, "")
	for _, bad := range []string{"[1]", "null", "1", "{", " "} {
		f(func(d *Device) { d.Attributes = json.RawMessage(bad) }, "attributes")
	}
	f(func(d *Device) { d.Attributes = json.RawMessage(`{"a":"` + strings.Repeat("x", 16<<10) + `"}`) }, "attributes")
	f(func(d *Device) { d.Groups = []GroupPath{"a//b"} }, "groups")
	f(func(d *Device) { d.Groups = slices.Repeat([]GroupPath{"a"}, 33) }, "groups")
	f(func(d *Device) { d.ExpectedInterval = -1 }, "expectedIntervalMs")
	f(func(d *Device) { d.ExpectedInterval = 367 * 24 * time.Hour }, "expectedIntervalMs")
}

func TestGroupAndUserValidate(t *testing.T) {
	f := func(err error, want string) {
		t.Helper()
		if got := field(t, err); got != want {
			t.Errorf("field %q, want %q: %v", got, want, err)
		}
	}
	f(Group{Path: "a"}.Validate(), "")
	f(Group{Path: "a", Tick: MinTick}.Validate(), "")
	f(Group{Path: "a", Tick: MinTick - 1}.Validate(), "tickMs")
	f(Group{Path: "a", Tick: MaxTick + 1}.Validate(), "tickMs")
	f(Group{}.Validate(), "path")
	f(Group{Path: "a", Label: "a\nb"}.Validate(), "label")
	f(User{Email: "a@example.com"}.Validate(), "")
	f(User{Email: "A <a@example.com>"}.Validate(), "email")
	f(User{Email: "a"}.Validate(), "email")
	f(User{}.Validate(), "email")
	f(User{Email: "a@example.com", Name: strings.Repeat("x", 201)}.Validate(), "name")
	f(Viewer.Validate(), "")
	f(Ingest.Validate(), "")
	f(Role("owner").Validate(), "role")
}

func TestValidMetric(t *testing.T) {
	f := func(name string, want bool) {
		t.Helper()
		if ValidMetric(name) != want || ValidMetric([]byte(name)) != want {
			t.Errorf("ValidMetric(%q) = %v", name, !want)
		}
	}
	f("temp", true)
	f("motor.bearing 1", true)
	f("Temperatur °C", true)
	f(strings.Repeat("x", 128), true)
	for _, bad := range []string{"", " a", "a ", "a/b", "a+", "#", "*", "a\x00", "a\x7f", "a\xff", strings.Repeat("x", 129)} {
		f(bad, false)
	}
}

func TestNamesOfKindsAndQualities(t *testing.T) {
	for k := Float; k <= Location; k++ {
		if back, ok := ParseKind(k.String()); !ok || back != k {
			t.Errorf("%v comes back as %v", k, back)
		}
	}
	if _, ok := ParseKind("unknown"); ok || Kind(9).String() != "unknown" || Quality(9).String() != "unknown" || Stale.String() != "stale" {
		t.Error("unknown kinds or qualities")
	}
	if !Int.Numeric() || Bool.Numeric() || Finite(math.NaN()) || Finite(math.Inf(1)) || !Finite(0) {
		t.Error("Numeric or Finite")
	}
}

func TestPageSize(t *testing.T) {
	f := func(limit, want int) {
		t.Helper()
		if got := (Page{Limit: limit}).Size(); got != want {
			t.Errorf("Size of %d = %d", limit, got)
		}
	}
	f(0, DefaultPage)
	f(-1, DefaultPage)
	f(1, 1)
	f(MaxPage+1, MaxPage)
}
