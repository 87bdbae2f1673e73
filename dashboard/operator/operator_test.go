package operator

import (
	"slices"
	"testing"

	"millrace/devices"
)

func TestNext(t *testing.T) {
	f := func(in, want string) {
		t.Helper()
		if got := nextOf(in); got != want {
			t.Errorf("nextOf(%q) = %q, want %q", in, got, want)
		}
	}
	f("/g/plant1?minutes=5", "/g/plant1?minutes=5")
	f("", "/")
	f("//evil.example", "/")
	f("https://evil.example", "/")
	f(`/\evil.example`, "/")
	f("/\r\nSet-Cookie: a=b", "/")
	f("/login", "/")
	f("/logout", "/")
}

func TestPathOf(t *testing.T) {
	f := func(in string, want devices.GroupPath) {
		t.Helper()
		if got, err := pathOf(in); got != want || (err != nil) != (want == "") {
			t.Errorf("pathOf(%q) = %q, %v", in, got, err)
		}
	}
	f("plant1/line2", "plant1/line2")
	f("plant1%2Fline2", "plant1/line2")
	f("plant1/line2/", "plant1/line2")
	f("", "")
	f("plant 1", "")
	f("%zz", "")
}

func TestCompareNames(t *testing.T) {
	names := []string{"press-10", "press-2", "Press-1", "a", "press-02", "press"}
	slices.SortFunc(names, compareNames)
	if want := []string{"a", "press", "Press-1", "press-02", "press-2", "press-10"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}
