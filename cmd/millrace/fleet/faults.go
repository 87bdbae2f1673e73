package fleet

import (
	"math/rand/v2"
	"time"
)

// faults of a unit, seeded on purpose so that there is something to find.
type faults struct {
	clock  time.Duration // its clock is off by this
	dies   time.Duration // after this long it says nothing any more; 0: never
	broken uint64        // every so many messages is no telemetry but garbage; 0: none
	buried bool
}

// addFaults seeds the faults: one-sample spikes are in the models of press-4 and vib-2.
func (p *Plant) addFaults() {
	for _, u := range p.Units {
		switch u.ID {
		case "room-6":
			u.faults.clock = 47 * time.Minute
			u.Attributes = []byte(`{"demo":true,"fault":"its clock is 47 minutes fast"}`)
		case "pump-3":
			u.faults.dies = 4 * time.Minute
			u.Attributes = []byte(`{"demo":true,"fault":"dies four minutes after each start"}`)
		case "plc-legacy":
			u.faults.broken = 8
			u.Attributes = []byte(`{"demo":true,"fault":"sends garbage now and then"}`)
		case "press-4", "vib-2":
			u.Attributes = []byte(`{"demo":true,"fault":"spikes of a single sample"}`)
		}
	}
}

func (f *faults) dead(after time.Duration) bool { return f.dies > 0 && after >= f.dies }

// garbage returns what a broken unit sends in place of its n-th message, or nil.
func (f *faults) garbage(rnd *rand.Rand, n uint64) []byte {
	if f.broken == 0 || n%f.broken != 0 {
		return nil
	}
	switch rnd.IntN(4) {
	case 0:
		return []byte(`{"cycle.time": 12.4, "state": "run`) // the line broke
	case 1:
		return []byte{0xa5, 0x5a, 0x00, 0x13, 0x37, 0xff, 0x02} // another protocol's bytes
	case 2:
		return []byte(`{"cycle.time": NaN}`) // not JSON, though many libraries write it
	default:
		return []byte(`ERR 17: register 40012 not readable`)
	}
}
