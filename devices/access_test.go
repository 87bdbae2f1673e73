package devices

import "testing"

func TestRoleIncludes(t *testing.T) {
	f := func(held Role, want ...Role) {
		t.Helper()
		for _, asked := range []Role{Viewer, Operator, Editor, Admin, Ingest, "", "owner"} {
			wanted := false
			for _, w := range want {
				wanted = wanted || w == asked
			}
			if got := held.Includes(asked); got != wanted {
				t.Errorf("%q.Includes(%q) = %v", held, asked, got)
			}
		}
	}
	f(Viewer, Viewer)
	f(Operator, Viewer, Operator)
	f(Editor, Viewer, Operator, Editor)
	f(Admin, Viewer, Operator, Editor, Admin, Ingest)
	f(Ingest, Ingest)
	f("")
	f("owner")
}

func TestCan(t *testing.T) {
	p := &Principal{Bindings: []Binding{{Group: "p/x", Role: Admin}, {Group: "q", Role: Viewer}}}
	f := func(p *Principal, role Role, in GroupPath, want bool) {
		t.Helper()
		if got := p.Can(role, in); got != want {
			t.Errorf("Can(%s, %q) = %v", role, in, got)
		}
	}
	f(p, Admin, "p/x", true)
	f(p, Ingest, "p/x/y", true)
	f(p, Viewer, "p", false)
	f(p, Viewer, "p/xy", false)
	f(p, Viewer, "q/z", true)
	f(p, Operator, "q", false)
	f(p, Viewer, Site, false)
	f(nil, Viewer, "q", false)
	f(System, Admin, Site, true)
	f(System, Ingest, "anything", true)

	any := func(role Role, want bool, in ...GroupPath) {
		t.Helper()
		if got := p.CanAny(role, in); got != want {
			t.Errorf("CanAny(%s, %v) = %v", role, in, got)
		}
	}
	any(Viewer, true, "other", "q")
	any(Viewer, false, "other")
	any(Viewer, false)
	all := func(p *Principal, role Role, want bool, in ...GroupPath) {
		t.Helper()
		if got := p.CanAll(role, in); got != want {
			t.Errorf("CanAll(%s, %v) = %v", role, in, got)
		}
	}
	all(p, Viewer, true, "p/x", "q")
	all(p, Admin, false, "p/x", "q")
	all(p, Viewer, false)
	all(System, Admin, true)
	all(nil, Viewer, false)
	if !p.CanSomewhere(Admin) || p.CanSomewhere("owner") || p.SiteAdmin() || (*Principal)(nil).CanSomewhere(Viewer) || !System.SiteAdmin() {
		t.Error("CanSomewhere or SiteAdmin")
	}
}
