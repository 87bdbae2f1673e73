package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A watcher resumes after the last frame it has taken, and not before there was one: a position is an epoch and a number.
func TestWatchResumes(t *testing.T) {
	type from struct {
		Epoch string
		Seq   *uint64
	}
	asked := make(chan *from, 16)
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		call := calls.Add(1)
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"millrace.v1"}})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		_, message, err := ws.Read(r.Context())
		if err != nil {
			return
		}
		var m struct{ From *from }
		_ = json.Unmarshal(message, &m) // what is not there is missed below
		epoch := `"e1"`
		if call >= 4 {
			epoch = `"e2"`
		}
		if err := ws.Write(r.Context(), websocket.MessageText, []byte(`{"type":"subscribed","id":1,"epoch":`+epoch+`,"seq":7,"series":[]}`)); err != nil {
			return
		}
		if call == 2 {
			frame := make([]byte, 48) // no points
			frame[0], frame[1] = 1, 1
			binary.LittleEndian.PutUint32(frame[4:], 1)
			binary.LittleEndian.PutUint64(frame[16:], 7)
			if err := ws.Write(r.Context(), websocket.MessageBinary, frame); err != nil {
				return
			}
			_, _, _ = ws.Read(r.Context()) // the credit: the frame has been taken
		}
		asked <- m.From
	}))
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() {
		c := &watchCmd{Server: server.URL, Token: "mrt_x", Group: "plant1"}
		ended <- c.Run(ctx, &console{out: &out, err: &out})
	}()
	next := func() *from {
		t.Helper()
		select {
		case f := <-asked:
			return f
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-time.After(20 * time.Second):
			t.Fatal("does not connect again")
		}
		return nil
	}
	for range 2 { // the first time, and after a connection without a frame
		if f := next(); f != nil {
			t.Errorf("asks to resume after nothing: %+v", *f)
		}
	}
	for range 2 { // after the frame, also when the connection after it brought none
		if f := next(); f == nil || f.Epoch != "e1" || f.Seq == nil || *f.Seq != 7 {
			t.Errorf("does not resume after the frame it has taken: %+v", f)
		}
	}
	if f := next(); f != nil { // the fourth connection was of another epoch, and without a frame
		t.Errorf("takes a number into another epoch: %+v", *f)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
