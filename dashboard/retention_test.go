package dashboard_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"millrace/devices"
)

func TestRetentionDays(t *testing.T) {
	s := newSite(t)
	admin := s.token(devices.Admin, devices.Site, nil)
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		resp, answer := s.do(method, path, admin, body)
		if resp.StatusCode != status {
			t.Fatalf("%s %s %s: %s %s", method, path, body, resp.Status, answer)
		}
		var got struct {
			Retention json.RawMessage `json:"retentionDays"`
		}
		if status < 300 && (json.Unmarshal(answer, &got) != nil || string(got.Retention) != want) {
			t.Errorf("%s %s %s: %s, want retentionDays %s", method, path, body, answer, want)
		}
	}
	f("POST", "/api/v1/groups", `{"path":"a"}`, 201, "null")
	f("POST", "/api/v1/groups", `{"path":"a/b","retentionDays":30}`, 201, "30")
	f("POST", "/api/v1/groups", `{"path":"a/c","retentionDays":-1}`, http.StatusBadRequest, "")
	f("PATCH", "/api/v1/groups/a", `{"retentionDays":0}`, 200, "0")
	f("PATCH", "/api/v1/groups/a", `{"label":"A"}`, 200, "0")
	f("GET", "/api/v1/groups/a%2Fb", "", 200, "30")
	f("PATCH", "/api/v1/groups/a/b", `{"retentionDays":null}`, 200, "null")
	f("PATCH", "/api/v1/groups/a", `{"retentionDays":36501}`, http.StatusBadRequest, "")
	f("PATCH", "/api/v1/groups/a", `{"retentionDays":"1"}`, http.StatusBadRequest, "")
	f("PATCH", "/api/v1/groups/a", `{"retentionDays":1.5}`, http.StatusBadRequest, "")
}

func TestGroupWithItsDevices(t *testing.T) {
	s := newSite(t)
	admin := s.token(devices.Admin, devices.Site, nil)
	for _, body := range []string{`{"id":"inner","groups":["a/b"]}`, `{"id":"both","groups":["a/b","c"]}`, `{"id":"outer","groups":["c"]}`, `{"id":"kept","groups":["d"]}`} {
		if resp, answer := s.do("POST", "/api/v1/devices", admin, body); resp.StatusCode != 201 {
			t.Fatalf("%s: %s", resp.Status, answer)
		}
	}
	for path, status := range map[string]int{"/api/v1/groups/a?devices=x": 400, "/api/v1/groups/d": 204} {
		if resp, answer := s.do("DELETE", path, admin, ""); resp.StatusCode != status {
			t.Errorf("%s: %s %s", path, resp.Status, answer)
		}
	}
	if resp, answer := s.do("DELETE", "/api/v1/groups/a?devices=true", admin, ""); resp.StatusCode != 204 {
		t.Fatalf("%s: %s", resp.Status, answer)
	}
	for id, status := range map[string]int{"inner": 404, "both": 200, "outer": 200, "kept": 200} {
		if resp, _ := s.do("GET", "/api/v1/devices/"+id, admin, ""); resp.StatusCode != status {
			t.Errorf("%s: %s, want %d", id, resp.Status, status)
		}
	}
}
