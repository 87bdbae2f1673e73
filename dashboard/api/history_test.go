package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

func TestStream(t *testing.T) {
	early := errors.New("early")
	if _, err := stream(func() {}, func(io.Writer) error { return early }); err != early {
		t.Errorf("an early error gives %v", err)
	}
	body, err := stream(func() {}, func(w io.Writer) error {
		_, err := io.WriteString(w, "short")
		return err
	})
	if got, e := io.ReadAll(body); err != nil || e != nil || string(got) != "short" {
		t.Errorf("got %q, %v, %v", got, err, e)
	}

	// An error after what can't be taken back ends the body with it, so that nobody takes it for whole.
	late := errors.New("late")
	large := bytes.Repeat([]byte("x"), 3*historyHeld)
	body, err = stream(func() {}, func(w io.Writer) error {
		if _, err := w.Write(large); err != nil {
			return err
		}
		return late
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); !errors.Is(err, late) || len(got) < historyHeld {
		t.Errorf("%d bytes, then %v", len(got), err)
	}

	// Who leaves ends it, also while nothing is being written.
	ctx, cancel := context.WithCancel(t.Context())
	body, err = stream(cancel, func(w io.Writer) error {
		if _, err := w.Write(large); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
	<-ctx.Done()

	ended := make(chan error, 1)
	body, err = stream(func() {}, func(w io.Writer) error {
		for {
			if _, err := w.Write(large); err != nil {
				ended <- err
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
	if err := <-ended; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it ended with %v", err)
	}
}
