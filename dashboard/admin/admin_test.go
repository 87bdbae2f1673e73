package admin_test

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/dashboard/pages"
	"millrace/devices"
	"millrace/devices/inventory"
)

func TestDevices(t *testing.T) {
	s := newSite(t)
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	b.get("/admin").want(t, 200, "You manage the whole site", "/admin/system")
	b.get("/admin/devices").want(t, 200, "No devices yet", "Connect a device")
	s.group("plant1/line2")

	b.post("/admin/devices", "id", "bad id", "label", "Press <7>", "expectedIntervalMs", "soon").want(t, 422, `value="bad id"`, "Press &lt;7&gt;", "expectedIntervalMs-error")
	b.post("/admin/devices", "id", "bad id").want(t, 422, `id="id-error"`)
	b.post("/admin/devices", "id", "press-7", "attributes", "[]").want(t, 422, `id="attributes-error"`, "[]")

	made := b.post("/admin/devices", "id", "press-7", "label", "Press 7", "groups", "plant1/line2", "expectedIntervalMs", "10s", "attributes", `{"serial":"A"}`)
	made.want(t, 201, "shown this once", "mosquitto_pub -V 5", "mosquitto_pub -V 311", "curl -u", "PubSubClient", "ArduinoMqttClient", "paho", "Waiting for the first message", "-p 1883")
	token := regexp.MustCompile(`mrd_[A-Za-z0-9]{32}`).FindString(made.body)
	if _, _, err := s.catalog.DeviceByToken("press-7", token); err != nil {
		t.Errorf("the token shown lets nobody in: %v", err)
	}
	if made.header.Get("Cache-Control") != "no-store" {
		t.Error("a page with a secret may be cached")
	}
	b.get("/admin/devices/press-7").want(t, 200, "!"+token, "YOUR-TOKEN", `value="10s"`, "serial")
	b.post("/admin/devices", "id", "press-7").want(t, 422, "exists already")

	s.parts.values["press-7"] = []pages.LiveValue{{Metric: "temp", Unit: "°C", Sample: devices.Sample{Kind: devices.Float, Value: 21.5, Recv: time.Now().UnixMilli()}}}
	b.get("/admin/devices/press-7/now").want(t, 200, "21.5", "°C", "!Waiting", "!<html")

	d := s.catalog.Device("press-7")
	_, err := d.Series([]byte("temp"), devices.Float)
	s.must(err)
	b.get("/admin/devices/press-7/series?metric=temp").want(t, 200, "temp of press-7")
	b.post("/admin/devices/press-7/series?metric=temp", "unit", "°C", "low", "x").want(t, 422, `id="low-error"`, "°C")
	b.post("/admin/devices/press-7/series?metric=temp", "unit", "°C", "low", "10", "high", "30,5").want(t, 303)
	b.get("/admin/devices/press-7").want(t, 200, "10 to 30.5")
	b.get("/admin/devices/press-7/series?metric=none").want(t, 404)

	b.post("/admin/devices/press-7", "label", "Press seven", "groups", "plant1/line2").want(t, 303)
	b.get("/admin/devices?q=seven").want(t, 200, "press-7")
	b.get("/admin/devices?q=eight").want(t, 200, "No device matches")
	b.get("/admin/devices/press-7/state?to=disabled").want(t, 200, "connections end at once")
	b.post("/admin/devices/press-7/state?to=disabled").want(t, 303)
	if d.State() != devices.Disabled {
		t.Error("still active")
	}
	b.post("/admin/devices/press-7/credentials", "expires", "2001-01-01").want(t, 422, `id="expires-error"`)
	b.post("/admin/devices/press-7/credentials", "fingerprint", "xyz").want(t, 422, `id="fingerprint-error"`)
	b.post("/admin/devices/press-7/credentials", "fingerprint", strings.Repeat("AB:", 31)+"AB").want(t, 303)
	creds, err := s.inventory.Credentials(ctx, system, "press-7")
	s.must(err)
	for _, c := range creds {
		b.get("/admin/devices/press-7/credentials/"+c.ID+"/delete").want(t, 200, "Revoke")
		b.post("/admin/devices/press-7/credentials/"+c.ID+"/delete").want(t, 303)
	}
	b.post("/admin/devices/press-7/credentials/"+creds[0].ID+"/delete").want(t, 404)

	b.get("/admin/devices/press-7/delete").want(t, 200, "1 series", "Type press-7")
	b.post("/admin/devices/press-7/delete", "confirm", "press").want(t, 422, `value="press"`, `id="confirm-error"`)
	b.post("/admin/devices/press-7/delete", "confirm", "press-7").want(t, 303)
	b.get("/admin/devices/press-7").want(t, 404)
	b.get("/admin/audit").want(t, 200, "created the device", "gave a role to", "whole site")
}

func TestImport(t *testing.T) {
	s := newSite(t)
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	s.group("plant1")
	const head = "id,label,type,groups,state,expectedIntervalMs,attributes\n"
	b.post("/admin/devices/import", "step", "preview").want(t, 422, `id="csv-error"`)
	b.upload("/admin/devices/import", head+"a,A,t,plant1,active,1000,\nb b,B,t,plant1,active,,\n").want(t, 200, "nothing is written yet", "Faulty lines", `<td class="num">3</td>`, `!value="import"`)
	csv := head + "a,A,t,plant1,active,1000,\n"
	b.upload("/admin/devices/import", csv).want(t, 200, "Import 1 device", `value="import"`)
	if s.catalog.Device("a") != nil {
		t.Error("a preview wrote")
	}
	b.post("/admin/devices/import", "step", "import", "csv", csv).want(t, 200, "Imported", "mrd_")
	b.get("/admin/devices/export.csv").want(t, 200, "a,A,t,plant1,active,1000")
}

func TestGroupAdmin(t *testing.T) {
	s := newSite(t)
	s.group("plant1/line1", "plant2")
	s.device("mine", "plant1/line1")
	s.device("theirs", "plant2")
	s.device("both", "plant1", "plant2")
	s.parts.rejects = []pages.Reject{
		{Device: "mine", At: time.Now(), Topic: "devices/mine/telemetry", Head: []byte("{\x00"), Reason: "no JSON", Kind: "json"},
		{Device: "theirs", At: time.Now(), Reason: "their secret", Kind: "json"},
		{Device: "ghost", At: time.Now(), Reason: "nobody", Kind: "auth"}}
	b := s.signIn("line@example.com", devices.Admin, "plant1")
	s.signIn("other@example.com", devices.Viewer, "plant2")

	b.get("/admin").want(t, 200, "You manage plant1", "!/admin/system", "!/admin/audit", "2 devices")
	b.get("/admin/devices").want(t, 200, ">mine<", ">both<", "!theirs")
	b.get("/admin/devices?group=plant2").want(t, 200, "!theirs")
	b.get("/admin/devices/theirs").want(t, 404)
	b.get("/admin/devices/both").want(t, 200, "Save", "!/both/delete")
	b.post("/admin/devices/both/delete", "confirm", "both").want(t, 422, "You may not do that here")
	b.get("/admin/groups").want(t, 200, "line1", "!plant2", `!href="/admin/groups/new"`)
	b.get("/admin/groups/view?path=plant2").want(t, 404)
	b.post("/admin/groups", "path", "plant3").want(t, 422, `value="plant3"`, `id="path-error"`)
	b.post("/admin/groups", "path", "plant1/line9", "tickMs", "1").want(t, 422, `id="tickMs-error"`)
	b.post("/admin/groups", "path", "plant1/line9", "label", "Nine").want(t, 303)
	b.post("/admin/devices", "id", "new1").want(t, 422, `value="new1"`)
	b.post("/admin/devices", "id", "new1", "groups", "plant1/line9").want(t, 201)
	b.get("/admin/intake").want(t, 200, "7b 00", "!their secret", "!nobody")
	b.get("/admin/system").want(t, 403)
	b.get("/admin/audit").want(t, 403)
	b.get("/admin/users/new").want(t, 403)
	b.get("/admin/users").want(t, 200, "line@example.com", "!New user")
	b.get("/admin/access").want(t, 200, "line@example.com", "!viewer of plant2")
	b.get("/admin/access/who?group=plant1/line9").want(t, 200, "line@example.com", "roles in groups above")
	b.get("/admin/access/who?group=plant2").want(t, 404)
	b.post("/admin/access", "who", "other@example.com", "role", "viewer", "group", "plant2").want(t, 422, `value="other@example.com"`)
	b.post("/admin/access", "who", "nobody@example.com", "role", "viewer", "group", "plant1").want(t, 422, `id="who-error"`)
	b.post("/admin/access", "who", "other@example.com", "role", "viewer", "group", "plant1").want(t, 303)
	b.post("/admin/groups/members?path=plant1", "device", "theirs").want(t, 422, `id="device-error"`)
	b.post("/admin/groups/members?path=plant1", "device", "mine").want(t, 303)
	b.post("/admin/groups/members/remove?path=plant1/line1", "device", "mine").want(t, 303)
	if d, err := s.inventory.Device(ctx, system, "mine"); err != nil || len(d.Groups) != 1 || d.Groups[0] != "plant1" {
		t.Error(d.Groups, err)
	}
	b.get("/admin/groups/delete?path=plant1").want(t, 200, "3 groups", "2 roles", "3 devices stay")
	b.post("/admin/groups/delete?path=plant1/line9", "confirm", "plant1/line9").want(t, 303)

	b.post("/admin/tokens", "name", "", "role", "ingest", "group", "plant1").want(t, 422, `id="name-error"`)
	b.post("/admin/tokens", "name", "telegraf", "role", "ingest", "group", "plant2").want(t, 422, `value="telegraf"`, `id="group-error"`)
	b.post("/admin/tokens", "name", "telegraf", "role", "ingest", "group", "plant1").want(t, 201, "mrt_", "shown this once")
	b.get("/admin/tokens").want(t, 200, "telegraf", "!mrt_")
}

func TestUsers(t *testing.T) {
	s := newSite(t)
	s.group("plant1")
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	b.get("/admin/users/new").want(t, 200, "New user")
	b.post("/admin/users", "email", "x@example.com", "password", "short", "role", "viewer", "group", "plant1").want(t, 422, `value="x@example.com"`, `id="password-error"`, `!value="short"`)
	b.post("/admin/users", "email", "nomail", "password", password, "role", "viewer", "group", "plant1").want(t, 422, `id="email-error"`)
	b.post("/admin/users", "email", "x@example.com", "password", password, "role", "viewer", "group", "plant1").want(t, 303)
	b.post("/admin/users", "email", "x@example.com", "password", password, "role", "viewer", "group", "plant1").want(t, 422, "exists already")
	b.get("/admin/users").want(t, 200, "viewer of plant1")
	list, err := s.inventory.Users(ctx, system, devices.Page{})
	s.must(err)
	id := ""
	for _, u := range list.Items {
		if u.Email == "x@example.com" {
			id = u.ID
		}
	}
	b.get("/admin/users/"+id).want(t, 200, "Reset password", "viewer")
	b.post("/admin/users/"+id, "email", "site@example.com", "name", "X").want(t, 422, `id="email-error"`)
	b.post("/admin/users/"+id, "email", "y@example.com", "name", "Y").want(t, 303)
	b.post("/admin/users/"+id+"/password", "password", "short").want(t, 422, `id="password-error"`)
	b.post("/admin/users/"+id+"/password", "password", password+"!").want(t, 303)
	b.get("/admin/users/"+id+"/state?to=disabled").want(t, 200, "Sessions end at once")
	b.post("/admin/users/"+id+"/state?to=disabled").want(t, 303)
	b.post("/admin/users/"+id+"/delete", "confirm", "y").want(t, 422, `id="confirm-error"`)
	bindings, err := s.inventory.Bindings(ctx, system, "", id, "")
	s.must(err)
	b.get("/admin/access/"+bindings[0].ID+"/delete").want(t, 200, "viewer of plant1 from y@example.com")
	b.post("/admin/access/"+bindings[0].ID+"/delete").want(t, 303)
	b.get("/admin/access/"+bindings[0].ID+"/delete").want(t, 404)
	b.post("/admin/users/"+id+"/delete", "confirm", "y@example.com").want(t, 303)
	b.get("/admin/users/"+id).want(t, 404)
	_, _, err = s.inventory.CreateToken(ctx, system, inventory.TokenRequest{Name: "bot", Role: devices.Viewer, Group: "plant1"})
	s.must(err)
	tokens, err := s.inventory.Tokens(ctx, system, devices.Page{})
	s.must(err)
	b.post("/admin/tokens/"+tokens.Items[0].ID+"/delete").want(t, 303)
	b.get("/admin/audit?action=token.").want(t, 200, "revoked the API token", "bot", "!created the user")
}

func TestSystemPage(t *testing.T) {
	s := newSite(t)
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	at := time.Now()
	s.parts.status.At, s.parts.status.Intake = at, []pages.IntakeStatus{{Protocol: "mqtt", Messages: 100, Samples: 500}}
	b.get("/admin/system").want(t, 200, "MQTT", "–", "healthy", "every 2s")
	s.parts.status.At, s.parts.status.Intake = at.Add(2*time.Second), []pages.IntakeStatus{{Protocol: "mqtt", Messages: 300, Samples: 1500}}
	s.parts.status.Database = pages.DatabaseStatus{Error: "connection refused"}
	b.get("/admin/system").want(t, 200, ">100<", ">500<", "does not answer", "connection refused")
}

func TestNotAllowed(t *testing.T) {
	s := newSite(t)
	s.group("plant1")
	viewer := s.signIn("viewer@example.com", devices.Viewer, "plant1")
	for _, path := range []string{"/admin", "/admin/devices", "/admin/groups", "/admin/users", "/admin/system", "/admin/intake"} {
		viewer.get(path).want(t, 403)
	}
	anonymous := &browser{s: s}
	anonymous.get("/admin").want(t, 401)
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	b.csrf = "another"
	if a := b.post("/admin/devices", "id", "x"); a.status == 201 || s.catalog.Device("x") != nil {
		t.Error("a foreign form made a device")
	}
}

// htmx asks with a header, and is sent on by one: a redirect would be followed inside the page.
func TestHTMX(t *testing.T) {
	s := newSite(t)
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	r := httptest.NewRequest("POST", "/admin/groups", strings.NewReader("path=plant1&csrf="+b.csrf))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("HX-Request", "true")
	a := b.do(r)
	a.want(t, 204)
	if a.header.Get("HX-Redirect") != "/admin/groups" {
		t.Error(a.header)
	}
}

func TestNoInlineCode(t *testing.T) {
	s := newSite(t)
	s.group("plant1")
	s.device("d1", "plant1")
	b := s.signIn("site@example.com", devices.Admin, devices.Site)
	inline := regexp.MustCompile(`(?i)<script>|<style|\sstyle="|\son[a-z]+="|hx-on|javascript:`)
	for _, path := range []string{"/admin", "/admin/devices", "/admin/devices/d1", "/admin/devices/new", "/admin/devices/import", "/admin/groups", "/admin/users", "/admin/access", "/admin/tokens", "/admin/intake", "/admin/audit", "/admin/system"} {
		a := b.get(path)
		a.want(t, 200, `name="csrf"`)
		if m := inline.FindString(a.body); m != "" {
			t.Errorf("%s has %q, which the content security policy forbids", path, m)
		}
	}
}
