package live

import (
	"encoding/json"
	"testing"

	"millrace/devices"
)

func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"type":"subscribe","id":1,"group":"plant1/line2","series":["*/temp"],"pace":10,"detail":"full","format":"json","credit":"auto","inFlight":2,"from":{"epoch":"k3x9","seq":1041}}`,
		`{"type":"credit","id":1,"seq":18446744073709551615}`, `{"type":"unsubscribe","id":4294967295}`, `{"type":"ping"}`,
		`{"type":"command","id":1,"device":"d","name":"n","payload":{"a":[1,2]}}`,
		`{"type":"subscribe","id":1,"group":null}`, `{"type":"subscribe","ID":1,"id":2,"group":"a"}`, `{"type":1}`, `{"type":"ping"} {}`, `[]`, `null`, ``, `{"type":"subscribe","id":1e3,"group":"a","pace":1e999}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := parseRequest(p)
		if err != nil {
			if m := refusal(&r, err); m.Code != codeInvalid || m.Message == "" {
				t.Errorf("%q: %+v", p, m)
			} else if !json.Valid(appendJSON(nil, m)) {
				t.Errorf("%q: the answer is no JSON", p)
			}
			return
		}
		if _, ok := fields[r.Type]; !ok {
			t.Errorf("%q: type %q was taken", p, r.Type)
		}
		if r.Type == "subscribe" {
			if o, _, err := r.options(); err == nil && (o.Pace < 0 || o.Credit > 2 || o.Group == devices.Site) {
				t.Errorf("%q: %+v", p, o)
			}
		}
	})
}

func FuzzPosition(f *testing.F) {
	for _, seed := range []string{"k3x9:1044", ":1", "a:", "a:-1", "a:1:2", "a:+1", "a: 1", "a:01"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition(s)
		if err == nil {
			b, _ := json.Marshal(p.Seq)
			if p.Epoch+":"+string(b) != s {
				t.Errorf("%q was read as %+v", s, p)
			}
		}
	})
}
