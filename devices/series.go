package devices

import (
	"math"
	"time"
	"unicode/utf8"
)

// A SeriesID is the dense number of a series in this process: 1, 2, 3 … in the order of first sight. It is made in
// memory (devices/catalog), means nothing to another process and is never stored: what is stored or sent names a series by
// device and metric. 0 means none.
type SeriesID uint32

// A Kind is what sort of values a series has. It follows the last value seen, except that Int widens to Float for good.
type Kind uint8

// Kinds of values, as numbers on the wire of the spine and of binary frames: never renumber.
const (
	Float    Kind = 0
	Int      Kind = 1 // a whole number, exact up to 2^53; larger ones are Float
	Bool     Kind = 2 // Value is 0 or 1
	String   Kind = 3 // Text
	Location Kind = 4 // Value is the latitude, Lon the longitude, WGS 84 degrees
)

var kindNames = [...]string{"float", "int", "bool", "string", "location"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// ParseKind is the inverse of String; ok is false for other names.
func ParseKind(name string) (k Kind, ok bool) {
	for i, n := range kindNames {
		if n == name {
			return Kind(i), true
		}
	}
	return 0, false
}

// Numeric reports whether values of this kind have a meaningful minimum, maximum and sum.
func (k Kind) Numeric() bool { return k == Float || k == Int }

// A Metric holds what is the same for all series of one name on the site: defaults that a Series can override.
type Metric struct {
	Name  string   `json:"name"`
	Label string   `json:"label"`
	Unit  string   `json:"unit"` // UCUM-like text as shown, e.g. "°C"
	Low   *float64 `json:"low"`  // normal band; nil: none
	High  *float64 `json:"high"`
}

// A Series is one metric of one device, with the effective settings (its own, or else those of its Metric).
type Series struct {
	ID               SeriesID      `json:"-"`
	Device           ID            `json:"device"`
	Metric           string        `json:"metric"`
	Kind             Kind          `json:"-"` // API: "kind" by name
	Label            string        `json:"label"`
	Unit             string        `json:"unit"`
	Low              *float64      `json:"low"`
	High             *float64      `json:"high"`
	ExpectedInterval time.Duration `json:"-"` // own, or else the device's; 0: learned. API: "expectedIntervalMs"
}

// MaxMetricName is the longest name of a metric in bytes.
const MaxMetricName = 128

// ValidMetric reports whether a name can be a metric's: 1 to MaxMetricName bytes of UTF-8 without control characters,
// spaces at the ends, and the characters / + # * which mean something in topics and patterns.
func ValidMetric[T string | []byte](name T) bool {
	if len(name) == 0 || len(name) > MaxMetricName || name[0] == ' ' || name[len(name)-1] == ' ' {
		return false
	}
	ascii := true
	for i := range len(name) {
		switch c := name[i]; {
		case c < ' ' || c == 0x7f || c == '/' || c == '+' || c == '#' || c == '*':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(string(name))
}

// A Quality says how far a value can be trusted.
type Quality uint8

// Qualities, from best to worst; numbers on the wire: never renumber.
const (
	Good      Quality = 0
	Uncertain Quality = 1
	Bad       Quality = 2
	Stale     Quality = 3 // no sample within twice the expected interval; set by the engine, never by a device
)

var qualityNames = [...]string{"good", "uncertain", "bad", "stale"}

func (q Quality) String() string {
	if int(q) < len(qualityNames) {
		return qualityNames[q]
	}
	return "unknown"
}

// A Sample is one value of one series at one time. Samples are passed by value in slices; Text is shared, never changed.
type Sample struct {
	Series  SeriesID
	Kind    Kind
	Quality Quality
	At      int64   // when it was measured, Unix milliseconds
	Recv    int64   // when it was received, Unix milliseconds
	Value   float64 // Float, Int, Bool (0, 1); latitude of a Location; NaN and infinities are never in a sample
	Lon     float64 // longitude of a Location
	Text    string  // a String's value, at most MaxText bytes
}

// MaxText is the longest value of a String in bytes.
const MaxText = 1024

// Finite reports whether v can be in a sample.
func Finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// A LastValue is a series' newest sample by name, as kept in the store over restarts.
type LastValue struct {
	Device ID
	Metric string
	Sample // Series is 0
}
