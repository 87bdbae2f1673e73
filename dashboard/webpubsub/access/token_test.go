package access

import (
	"slices"
	"testing"
	"time"
)

const (
	first  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ABCDEFGH"
	second = "another key that is long enough to be a key"
)

func verifier(now time.Time) *Verifier {
	return &Verifier{Keys: func() (string, string) { return first, second }, Endpoints: []string{"https://pubsub.example/"}, Now: func() time.Time { return now }}
}

func TestClient(t *testing.T) {
	now := time.Now()
	token, err := Sign(second, Grant{Endpoint: "https://PUBSUB.example", Path: "/client/hubs/chat", User: "ü", Roles: []string{"a", "b"}, Groups: []string{"g"}, Life: time.Minute}, now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := verifier(now).Client(token, "http://127.0.0.1:8080", "/client/hubs/Chat")
	if err != nil {
		t.Fatal(err)
	}
	if c.User != "ü" || !c.HasUser || !slices.Equal(c.Roles, []string{"a", "b"}) || !slices.Equal(c.Groups, []string{"g"}) || c.All["iss"][0] != "https://webpubsub.azure.com" || c.Expires.Unix() != now.Add(time.Minute).Unix() {
		t.Errorf("claims are %+v", c)
	}
}

func TestREST(t *testing.T) {
	now := time.Now()
	v := verifier(now)
	for aud, ok := range map[string]bool{
		"http://h:1/api/hubs/c/:send": true, "https://H:1/API/hubs/c/:send?api-version=1&x=%2F": true, "ws://h:1/api/hubs/c/:send/": true, "wss://pubsub.example/api/hubs/c/%3Asend": true,
		"https://pubsub.example:443/api/hubs/c/:send?x=1": true, "https://pubsub.example:80/api/hubs/c/:send": false,
		"http://h:1/api/hubs/c/:send/child": true, "http://h:1/api/hubs/c/:sendSuffix": false, "http://h:2/api/hubs/c/:send": false, "ftp://h:1/api/hubs/c/:send": false, "http://h:1/": false, "": false,
	} {
		token, err := SignREST(first, aud, time.Minute, now)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.REST(token, "http://h:1", "/api/hubs/c/:send"); (err == nil) != ok {
			t.Errorf("%s: %v", aud, err)
		}
	}
}

func TestRecovery(t *testing.T) {
	var r, other Recovery
	token := r.Issue("chat", "c1")
	if !r.Check(token, "chat", "c1") || r.Check(token, "chat", "c2") || r.Check(token, "chatc", "1") || other.Check(token, "chat", "c1") || r.Check("", "chat", "c1") {
		t.Error("a token is not that of its connection alone")
	}
}

func TestConnectionString(t *testing.T) {
	for s, want := range map[string]string{
		"Endpoint=https://host;AccessKey=k=;Version=1.0;":    "Endpoint=https://host;AccessKey=k=;Version=1.0;",
		"accesskey=k;ENDPOINT=http://127.0.0.1:8080/;port=9": "Endpoint=http://127.0.0.1:9;AccessKey=k;Version=1.0;",
		"Endpoint=host;AccessKey=k":                          "Endpoint=https://host;AccessKey=k;Version=1.0;",
		"Endpoint=https://host":                              "",
		"AccessKey=k":                                        "",
		"Endpoint=https://a;Endpoint=https://b;AccessKey=k":  "",
		"Endpoint=https://a;AccessKey=k;Port=70000":          "",
		"nonsense": "",
	} {
		c, err := ParseConnectionString(s)
		if (err == nil) != (want != "") || err == nil && c.String() != want {
			t.Errorf("%s: %v, %v", s, c, err)
		}
	}
}

func FuzzClient(f *testing.F) {
	now := time.Now()
	token, _ := Sign(first, Grant{Endpoint: "http://h", Path: "/client/hubs/chat", Life: time.Minute}, now)
	f.Add(token, "http://h", "chat")
	f.Add("a.b.c", "http://h/%zz", "%41")
	v := verifier(now)
	f.Fuzz(func(t *testing.T, token, base, hub string) {
		if c, err := v.Client(token, base, "/client/hubs/"+hub); err == nil && c.Expires.IsZero() {
			t.Fatal("a token without an end was taken")
		}
		_ = v.REST(token, base, hub)
	})
}

func FuzzConnectionString(f *testing.F) {
	f.Add("Endpoint=https://host;AccessKey=k;Version=1.0;Port=9")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConnectionString(s)
		if err != nil {
			return
		}
		if again, err := ParseConnectionString(c.String()); err != nil || again.Key != c.Key {
			t.Fatalf("%q became %q: %v", s, c.String(), err)
		}
	})
}
