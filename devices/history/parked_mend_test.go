package history

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"millrace/devices"
)

func TestParkedChunksAreMended(t *testing.T) {
	f := newFixture(t, Config{})
	w, _ := f.newWriter()
	f.exec("alter table history_chunk add constraint unlucky check (last <> 13)")
	a := f.series("a", "m", devices.Float)
	f.send(w, number(a, noon, 1), number(a, noon+1, 2), number(a, noon+2, 13))
	f.flush(w)
	f.send(w, number(a, noon+1, 3))
	f.send(w, number(f.series("a", "early", devices.Int), math.MinInt64+1, 1))
	f.flush(w)
	parked := func() []Parked {
		t.Helper()
		all, _, _, err := f.Parked(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := parked()
	if len(all) != 2 {
		t.Fatalf("%+v", all)
	}
	for _, p := range all {
		if err := f.RetryParked(t.Context(), p.ID); !errors.Is(err, devices.ErrInvalid) {
			t.Errorf("%s: %v", p.Metric, err)
		}
	}
	equalTexts(t, "before", f.samples("a", "m"), fmt.Sprintf("f%d=3", noon+1))
	f.exec("alter table history_chunk drop constraint unlucky")
	if err := f.RetryParked(t.Context(), all[1].ID); err != nil {
		t.Fatal(err)
	}
	got := f.samples("a", "m")
	if len(got) != 3 || !strings.HasSuffix(got[1], "=3") {
		t.Errorf("stored: %q; the sample that came later is right", got)
	}
	if err := f.RetryParked(t.Context(), all[1].ID); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	if err := f.DiscardParked(t.Context(), all[0].ID); err != nil || len(parked()) != 0 {
		t.Errorf("discard: %v, %+v", err, parked())
	}
	if err := f.DiscardParked(t.Context(), all[0].ID); !errors.Is(err, devices.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}
