package devices

import "testing"

func TestRetention(t *testing.T) {
	r := Retention{Site: 30, Groups: map[GroupPath]int{"a": 10, "a/b/c": 100, "d": Forever, "e": 5}}
	f := func(want int, in ...GroupPath) {
		t.Helper()
		if got := r.Days(in); got != want {
			t.Errorf("%v: %d days, want %d", in, got, want)
		}
	}
	f(30)
	f(30, "x")
	f(10, "a")
	f(10, "a/b")
	f(100, "a/b/c/d")
	f(30, "ab")
	f(10, "a", "e/f")
	f(30, "a", "x", "e")
	f(Forever, "a", "d/e")
	r.Site = Forever
	f(Forever, "x", "a")
	f(10, "a")
}
