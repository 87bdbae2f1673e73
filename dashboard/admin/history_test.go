package admin_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"millrace/dashboard/pages"
	"millrace/devices"
)

func TestRetentionOfGroups(t *testing.T) {
	s := newSite(t)
	s.device("press", "plant1/line1")
	s.device("pump", "plant1/line1", "plant2")
	s.parts.sizes["press"], s.parts.sizes["pump"] = 1_234_567, 1000
	b := s.signIn("line@example.com", devices.Admin, "plant1")
	s.signIn("other@example.com", devices.Admin, "plant2")
	retention := func(p devices.GroupPath) any {
		t.Helper()
		g, err := s.inventory.Group(ctx, system, p)
		s.must(err)
		if g.Retention == nil {
			return nil
		}
		return *g.Retention
	}

	b.get("/admin/groups/view?path=plant1").want(t, 200, "about 1\u202f240\u202f000", "2.4 MiB", "2026-01-01", "400 days, the site&#39;s default")
	b.get("/admin/devices/press").want(t, 200, "about 1\u202f230\u202f000 samples", "Samples stay", "400 days")
	b.get("/admin/groups/edit?path=plant1").want(t, 200, "as above: 400 days", `value="inherit" checked`)
	b.post("/admin/groups/edit?path=plant1", "keep", "days", "days", "x").want(t, 422, `value="x"`, `id="retention-error"`, `value="days" checked`)
	b.post("/admin/groups/edit?path=plant1", "keep", "days", "days", "0").want(t, 422, `id="retention-error"`)
	b.post("/admin/groups/edit?path=plant1", "keep", "days", "days", "30", "label", "One").want(t, 303)
	if got := retention("plant1"); got != 30 {
		t.Errorf("retention %v", got)
	}
	b.get("/admin/groups/view?path=plant1").want(t, 200, ">30 days<")
	b.get("/admin/groups/view?path=plant1/line1").want(t, 200, "30 days, from plant1")
	b.get("/admin/groups/edit?path=plant1").want(t, 200, `value="30"`, `value="days" checked`)

	// What saving deletes is said, and asked for.
	s.parts.lost = 5000
	b.post("/admin/groups/edit?path=plant1", "keep", "days", "days", "3").want(t, 422, "This deletes 5\u202f000 recorded samples (4.9 KiB) since 2026-01-01", `name="lose" value="3"`, "Save and delete", "!aria-invalid")
	b.post("/admin/groups/edit?path=plant1&asked=1", "keep", "days", "days", "3").want(t, 422, "This deletes", `aria-invalid="true"`)
	b.post("/admin/groups/edit?path=plant1&asked=1", "keep", "days", "days", "2", "lose", "3").want(t, 422, `name="lose" value="2"`)
	if got := retention("plant1"); got != 30 {
		t.Errorf("changed without being asked for: %v", got)
	}
	b.post("/admin/groups/edit?path=plant1&asked=1", "keep", "days", "days", "3", "lose", "3").want(t, 303)
	b.post("/admin/groups/edit?path=plant1", "keep", "forever").want(t, 303)
	if got := retention("plant1"); got != devices.Forever {
		t.Errorf("retention %v", got)
	}
	b.post("/admin/groups/edit?path=plant1", "keep", "inherit", "lose", "inherit").want(t, 303)
	if got := retention("plant1"); got != nil {
		t.Errorf("retention %v", got)
	}
	b.post("/admin/groups/edit?path=plant2", "keep", "days", "days", "3").want(t, 404, "!5")
	b.post("/admin/groups", "path", "plant1/line9", "keep", "days", "days", "7").want(t, 303)
	if got := retention("plant1/line9"); got != 7 {
		t.Errorf("retention %v", got)
	}
}

func TestDeletionTakesHistory(t *testing.T) {
	s := newSite(t)
	s.device("press", "plant1/line1")
	s.device("pump", "plant1/line1", "plant2")
	s.device("lamp", "plant1")
	s.device("fan", "plant3")
	s.parts.sizes["press"] = 70
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	there := func(id devices.ID) bool {
		t.Helper()
		_, err := s.inventory.Device(ctx, system, id)
		if err != nil && !errors.Is(err, devices.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	b.get("/admin/devices/press/delete").want(t, 200, "All its history: 70 recorded samples (140 B) since 2026-01-01.")
	b.get("/admin/devices/pump/delete").want(t, 200, "!All its history")
	s.parts.lost = 9
	b.get("/admin/groups/delete?path=plant1").want(t, 200, "Also delete the 2 devices that are in no other group, with 70 recorded samples (140 B) since 2026-01-01", "outside of it, 9 recorded samples")
	b.post("/admin/groups/delete?path=plant1", "confirm", "plant", "devices", "1").want(t, 422, `name="devices" value="1" checked`)
	b.post("/admin/groups/delete?path=plant3", "confirm", "plant3").want(t, 303)
	b.post("/admin/groups/delete?path=plant1", "confirm", "plant1", "devices", "1").want(t, 303)
	if there("press") || there("lamp") || !there("pump") || !there("fan") {
		t.Error("wrong devices were deleted")
	}
	if s.catalog.Device("press") != nil || s.catalog.Device("pump") == nil {
		t.Error("the catalog has other devices")
	}
	b.get("/admin/audit").want(t, 200, "deleted the device", "press", "deletedDevices: 2")
}

func TestParkedChunks(t *testing.T) {
	s := newSite(t)
	s.parts.status.History = pages.HistoryStatus{ParkedChunks: 2, ParkedSamples: 130, Parked: []pages.ParkedChunk{
		{ID: 7, At: time.Now(), Device: "press", Metric: "temp", Start: time.Now(), Samples: 120, Reason: "value <out> of range"},
		{ID: 13, At: time.Now(), Device: "press", Metric: "rpm", Start: time.Now(), Samples: 10, Reason: "unlucky"}}}
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	b.get("/admin/system").want(t, 200, "value &lt;out&gt; of range", "/admin/system/parked/7/discard", "/admin/system/parked/13/retry")
	b.post("/admin/system/parked/13/retry").want(t, 303)
	b.post("/admin/system/parked/7/retry").want(t, 303)
	b.get("/admin/system/parked/7/discard").want(t, 200, "120 samples of press/temp", "Discard")
	b.post("/admin/system/parked/7/discard").want(t, 303)
	b.get("/admin/system/parked/x/discard").want(t, 404)
	if !slices.Equal(s.parts.mended, []string{"retry7", "discard7"}) {
		t.Errorf("mended %q", s.parts.mended)
	}
	b.get("/admin/audit").want(t, 200, "stored again the refused chunk", "discarded the refused chunk")

	s.group("plant1")
	g := s.signIn("group@example.com", devices.Admin, "plant1")
	g.post("/admin/system/parked/7/retry").want(t, 403)
	g.get("/admin/system/parked/7/discard").want(t, 403)
	g.post("/admin/system/parked/7/discard").want(t, 403)
}
