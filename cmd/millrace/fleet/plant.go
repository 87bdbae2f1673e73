// Package fleet is a simulated site: a plant by a river whose presses, pumps, tanks, vehicles and rooms behave enough like
// real ones to try Millrace on, with the faults that real ones have. The plant itself (Plant) knows no network and takes
// the time as an argument; Publisher sends what it measures over MQTT, one connection a device.
package fleet

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"millrace/devices"
)

// A Unit is one simulated device.
type Unit struct {
	devices.Device
	plant  *Plant
	faults faults
	values int // series it has
}

// A Message is what a unit publishes at one time.
type Message struct {
	Unit    *Unit
	Topic   string
	Payload []byte // not kept by the plant
	QoS     byte
	Last    bool // the unit dies with this message: its connection breaks
}

// Plant is the whole site. It is for one goroutine.
type Plant struct {
	Groups  []devices.Group
	Metrics []devices.Metric
	Units   []*Unit

	rnd    *rand.Rand
	start  time.Time
	queue  schedule
	shared world
}

// world is what units share, so that they correlate.
type world struct {
	outside   float64 // °C
	sun       float64 // W/m²
	wind      float64 // m/s
	pressLoad float64 // kW, all presses together, falling off
	air       float64 // bar in the compressed air network
	steam     float64 // bar
	parts     float64 // made by the presses and not yet packed
	demand    float64 // kW of everything but the presses
}

// NewPlant returns the site as it is at a time. The same seed gives the same plant.
func NewPlant(seed uint64, now time.Time) *Plant {
	p := &Plant{rnd: rand.New(rand.NewPCG(seed, 7)), start: now, Metrics: metrics(), Groups: groups()}
	p.shared = world{outside: 14, sun: 350, wind: 4, air: 7, steam: 9.5, demand: 180}
	p.addWeather()
	p.addPresses()
	p.addPackaging()
	p.addUtilities()
	p.addTanks()
	p.addVehicles()
	p.addBuilding()
	p.addFaults()
	heap.Init(&p.queue)
	return p
}

// Series is the number of series the plant has.
func (p *Plant) Series() int {
	n := 0
	for _, u := range p.Units {
		n += u.values
	}
	return n
}

// Advance measures whatever is due at now, in order, and returns when the next measurement is. After a pause (a suspended
// machine) it goes on from now instead of catching up.
func (p *Plant) Advance(now time.Time, emit func(Message)) (next time.Time) {
	for len(p.queue) > 0 {
		r := p.queue[0]
		if r.next.After(now) {
			return r.next
		}
		if now.Sub(r.next) > max(time.Second, 2*r.every) {
			r.next = now
		}
		at := r.next
		r.next = at.Add(r.every)
		if r.unit.faults.dead(at.Sub(p.start)) {
			heap.Pop(&p.queue)
			if !r.unit.faults.buried {
				r.unit.faults.buried = true
				emit(Message{Unit: r.unit, Last: true})
			}
			continue
		}
		if r.step != nil {
			r.step(r.every.Seconds())
		}
		r.emit(at, emit)
		heap.Fix(&p.queue, 0)
	}
	return now.Add(time.Second)
}

// unit adds a device. Its faults come later.
func (p *Plant) unit(id, label, kind string, groups ...devices.GroupPath) *Unit {
	u := &Unit{plant: p, Device: devices.Device{
		ID: devices.ID(id), Label: label, Type: kind, Groups: groups, State: devices.Active,
		Attributes: []byte(`{"demo":true}`),
	}}
	p.Units = append(p.Units, u)
	return u
}

// A report is a set of values that a unit measures and sends together.
type report struct {
	unit   *Unit
	every  time.Duration
	step   func(dt float64) // moves the model by dt seconds; nil when another report does
	fields []field
	qos    byte
	single bool // each value in a message of its own, on devices/{device}/telemetry/{metric}
	next   time.Time
	count  uint64
}

// every adds a report at a rate. Slow ones are sent at QoS 1, as a battery-powered node would; fast ones at QoS 0.
func (u *Unit) every(d time.Duration, step func(dt float64), fields ...field) *report {
	r := &report{unit: u, every: d, step: step, fields: fields}
	if d >= time.Second {
		r.qos = 1
	}
	r.next = u.plant.start.Add(time.Duration(u.plant.rnd.Int64N(int64(d)))) // not all at once
	u.values += len(fields)
	u.plant.queue = append(u.plant.queue, r)
	return r
}

func (r *report) emit(at time.Time, emit func(Message)) {
	u := r.unit
	r.count++
	topic := "devices/" + string(u.ID) + "/telemetry"
	if bad := u.faults.garbage(u.plant.rnd, r.count); bad != nil {
		emit(Message{Unit: u, Topic: topic, Payload: bad, QoS: r.qos})
		return
	}
	if r.single {
		for _, f := range r.fields {
			emit(Message{Unit: u, Topic: topic + "/" + f.name, Payload: f.append(nil), QoS: r.qos})
		}
		return
	}
	b := make([]byte, 0, 32+24*len(r.fields))
	b = append(b, `{"ts":`...)
	b = strconv.AppendInt(b, at.Add(u.faults.clock).UnixMilli(), 10)
	for _, f := range r.fields {
		b = append(b, `,"`...)
		b = append(b, f.name...)
		b = append(b, `":`...)
		b = f.append(b)
	}
	emit(Message{Unit: u, Topic: topic, Payload: append(b, '}'), QoS: r.qos})
}

// A field is one value of a report, read from the model when it is sent.
type field struct {
	name   string
	append func(dst []byte) []byte // as JSON
}

func num(name string, decimals int, v *float64) field {
	return field{name, func(dst []byte) []byte { return strconv.AppendFloat(dst, *v, 'f', decimals, 64) }}
}

func whole(name string, v *float64) field { return num(name, 0, v) }

func flag(name string, v *bool) field {
	return field{name, func(dst []byte) []byte { return strconv.AppendBool(dst, *v) }}
}

func text(name string, v *string) field {
	return field{name, func(dst []byte) []byte { return strconv.AppendQuote(dst, *v) }}
}

// place is a position in metres east and north of the plant's gate.
func place(name string, x, y *float64) field {
	const lat, lon, metresPerDegree = 51.90250, 4.36820, 111_320.0
	east := metresPerDegree * math.Cos(lat*math.Pi/180)
	return field{name, func(dst []byte) []byte {
		dst = append(dst, `{"lat":`...)
		dst = strconv.AppendFloat(dst, lat+*y/metresPerDegree, 'f', 6, 64)
		dst = append(dst, `,"lon":`...)
		dst = strconv.AppendFloat(dst, lon+*x/east, 'f', 6, 64)
		return append(dst, '}')
	}}
}

// approach moves x towards a target with a time constant of tau seconds.
func approach(x, target, tau, dt float64) float64 {
	return target + (x-target)*math.Exp(-dt/tau)
}

// noise is normal with a standard deviation.
func (p *Plant) noise(sd float64) float64 { return p.rnd.NormFloat64() * sd }

// drift is a step of a random walk that is pulled back to a mean, with a standard deviation of sd in the long run.
func (p *Plant) drift(x, mean, sd, tau, dt float64) float64 {
	a := math.Exp(-dt / tau)
	return mean + (x-mean)*a + p.noise(sd*math.Sqrt(1-a*a))
}

// often is true about every so many seconds.
func (p *Plant) often(every, dt float64) bool { return p.rnd.Float64() < dt/every }

func clamp(x, lo, hi float64) float64 { return min(max(x, lo), hi) }

// schedule is a heap of reports by when they are due.
type schedule []*report

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].next.Before(s[j].next) }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)        { *s = append(*s, x.(*report)) }
func (s *schedule) Pop() any {
	old := *s
	last := old[len(old)-1]
	*s = old[:len(old)-1]
	return last
}
