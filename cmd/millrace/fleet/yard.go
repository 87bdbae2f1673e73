package fleet

import (
	"fmt"
	"math"
	"time"
)

// places of the yard in metres east and north of the gate.
var places = []struct {
	name string
	x, y float64
}{
	{"dock", 20, 15}, {"press line", 95, 40}, {"packaging", 150, 45}, {"high rack", 170, 110}, {"tank farm", 60, 140}, {"charger", 12, 70},
}

// A vehicle drives between places, with acceleration, turns and a battery.
type vehicle struct {
	x, y, heading, speed, battery, top, wait float64 // top and speed in m/s
	to                                       int
	loaded, charging                         bool
}

func (v *vehicle) step(p *Plant, dt float64) (arrived bool) {
	switch {
	case v.charging:
		v.speed = 0
		if v.battery += dt * 0.12; v.battery >= 95 {
			v.charging = false
		}
		return false
	case v.wait > 0:
		v.wait -= dt
		v.speed = approach(v.speed, 0, 0.5, dt)
		return false
	}
	goal := places[v.to]
	dx, dy := goal.x-v.x, goal.y-v.y
	far := math.Hypot(dx, dy)
	target := v.top
	if far < 8 {
		target = max(0.4, v.top*far/8)
	}
	v.speed = approach(v.speed, target, 1.5, dt)
	turn := math.Mod(math.Atan2(dx, dy)*180/math.Pi-v.heading+540, 360) - 180
	v.heading = math.Mod(v.heading+clamp(turn, -70*dt, 70*dt)+360, 360)
	way := min(v.speed*dt, far)
	v.x += dx / max(far, 0.01) * way
	v.y += dy / max(far, 0.01) * way
	v.battery = max(5, v.battery-dt*(0.004+v.speed*0.006))
	if far > 0.6 {
		return false
	}
	v.wait = 6 + 15*p.rnd.Float64()
	v.loaded = !v.loaded
	if places[v.to].name == "charger" {
		v.charging = true
	}
	v.to = p.rnd.IntN(len(places) - 1)
	if v.battery < 25 {
		v.to = len(places) - 1
	}
	return true
}

func (v *vehicle) doing(driving string) string {
	switch {
	case v.charging:
		return "charging"
	case v.wait > 0 && v.loaded:
		return "loading"
	case v.wait > 0:
		return "unloading"
	}
	return driving
}

func (p *Plant) addVehicles() {
	start := func(top float64) *vehicle {
		at := places[p.rnd.IntN(len(places))]
		return &vehicle{x: at.x + p.noise(5), y: at.y + p.noise(5), battery: 30 + 65*p.rnd.Float64(), top: top, to: p.rnd.IntN(len(places) - 1)}
	}
	for i := range 6 {
		u := p.unit(fmt.Sprintf("forklift-%d", i+1), fmt.Sprintf("Forklift %d", i+1), "forklift", "riverside/fleet/forklifts")
		v := start(3.2)
		hours, height, load, kmh, state := float64(3_100+420*i), 0.1, 0.0, 0.0, "driving"
		u.every(time.Second, func(dt float64) {
			v.step(p, dt)
			state = v.doing("driving")
			lift := 0.15
			if v.wait > 0 {
				lift = 2.4
			}
			height = approach(height, lift, 3, dt)
			want := 0.0
			if v.loaded {
				want = 780 + 40*float64(i)
			}
			load = approach(load, want, 2, dt)
			kmh = v.speed*3.6 + p.noise(0.05)*min(1, v.speed)
			hours += dt / 3600
		}, place("location", &v.x, &v.y), num("ground.speed", 1, &kmh), num("heading", 0, &v.heading), num("battery", 1, &v.battery),
			num("payload", 0, &load), num("fork.height", 2, &height), num("hours", 2, &hours), text("state", &state))
	}
	for i := range 4 {
		u := p.unit(fmt.Sprintf("agv-%d", i+1), fmt.Sprintf("Carrier %d", i+1), "agv", "riverside/fleet/agv")
		v := start(1.4)
		kmh, obstacle, mission, state, blocked := 0.0, false, "", "driving", 0.0
		u.every(500*time.Millisecond, func(dt float64) {
			if blocked > 0 {
				blocked -= dt
				v.speed = 0
			} else {
				v.step(p, dt)
				if p.often(90, dt) {
					blocked = 2 + 4*p.rnd.Float64()
				}
			}
			obstacle = blocked > 0
			state = v.doing("driving")
			if obstacle {
				state = "waiting"
			}
			mission = "to " + places[v.to].name
			kmh = v.speed * 3.6
		}, place("location", &v.x, &v.y), num("ground.speed", 2, &kmh), num("heading", 0, &v.heading), num("battery", 1, &v.battery),
			flag("obstacle", &obstacle), text("mission", &mission), text("state", &state))
	}
}

// addWeather adds the station on the roof. It goes first: everything else asks it for sun and temperature.
func (p *Plant) addWeather() {
	u := p.unit("weather", "Weather station", "weather station", "riverside/building/roof")
	humidity, barometer, direction, rain, cloud := 62.0, 1016.0, 240.0, 0.0, 0.4
	w := &p.shared
	var t float64
	u.every(2*time.Second, func(dt float64) {
		t += dt
		cloud = clamp(p.drift(cloud, 0.4, 0.25, 200, dt), 0, 1)
		w.sun = max(0, 700*(1-cloud*0.8)*(0.75+0.25*math.Sin(t/900))) + p.noise(4)
		w.outside = approach(w.outside, 11+w.sun*0.011, 1800, dt) + p.noise(0.01)
		w.wind = clamp(p.drift(w.wind, 4.5, 2, 25, dt), 0, 24)
		direction = math.Mod(p.drift(direction, 240, 25, 120, dt)+360, 360)
	}, num("wind.speed", 1, &w.wind), num("wind.direction", 0, &direction), num("radiation", 0, &w.sun))
	u.every(10*time.Second, func(dt float64) {
		humidity = clamp(p.drift(humidity, 88-w.outside*1.6, 3, 600, dt), 15, 100)
		barometer = p.drift(barometer, 1016, 4, 7200, dt)
		rain = max(0, (cloud-0.85)*20)
	}, num("temp", 2, &w.outside), num("humidity", 1, &humidity), num("air.barometric", 1, &barometer), num("rain", 1, &rain))
}

// addBuilding adds air handling, rooms and the solar plant on the roof.
func (p *Plant) addBuilding() {
	for i, zone := range []string{"Offices", "Canteen", "Hall north", "Hall south"} {
		u := p.unit(fmt.Sprintf("hvac-%d", i+1), "Air handling, "+zone, "air handling", "riverside/building")
		temp, setpoint, fan, valve, mode := 20.5, 21.0, 45.0, 30.0, "comfort"
		u.every(5*time.Second, func(dt float64) {
			valve = clamp(approach(valve, 40+(setpoint-temp)*45, 30, dt), 0, 100)
			fan = clamp(p.drift(fan, 45+math.Abs(setpoint-temp)*10, 3, 60, dt), 20, 100)
			loss := (p.shared.outside - temp) * 0.0004
			temp += (loss+(valve-20)*0.00012)*dt + p.noise(0.01)
		}, num("temp", 2, &temp), num("setpoint", 1, &setpoint), num("fan", 0, &fan), num("valve", 0, &valve), text("mode", &mode))
	}
	for i := range 6 {
		u := p.unit(fmt.Sprintf("room-%d", i+1), fmt.Sprintf("Room %d.0%d", i/3+1, i%3+1), "room sensor", "riverside/building/rooms")
		u.ExpectedInterval = 10 * time.Second
		temp, humidity, co2, light, battery, occupied := 21.0+p.noise(0.6), 44.0, 520.0, 180.0, 70+30*p.rnd.Float64(), i%2 == 0
		u.every(10*time.Second, func(dt float64) {
			if p.often(400, dt) {
				occupied = !occupied
			}
			air, lamp := 450.0, p.shared.sun*0.25
			if occupied {
				air, lamp = 1050, 320+p.shared.sun*0.2
			}
			co2 = approach(co2, air, 600, dt) + p.noise(4)
			light = approach(light, lamp, 15, dt) + p.noise(2)
			temp = approach(temp, 20.5+air/900, 900, dt) + p.noise(0.02)
			humidity = clamp(p.drift(humidity, 40+air/120, 1, 300, dt), 10, 90)
			if battery -= dt * 0.0002; battery < 10 {
				battery = 100
			}
		}, num("temp", 2, &temp), num("humidity", 1, &humidity), whole("co2", &co2), whole("light", &light), num("battery", 1, &battery), flag("occupied", &occupied))
	}
	for i := range 2 {
		u := p.unit(fmt.Sprintf("solar-%d", i+1), fmt.Sprintf("Solar inverter %d", i+1), "inverter", "riverside/building/roof")
		power, volt, amp, temp, energy, state := 20.0, 640.0, 30.0, 38.0, 12.0, "feeding in"
		u.every(2*time.Second, func(dt float64) {
			power = max(0, approach(power, p.shared.sun*0.055, 6, dt)+p.noise(0.05))
			volt = 610 + power*0.8 + p.noise(1)
			amp = power / volt * 1000 * 1.02
			temp = approach(temp, p.shared.outside+14+power*0.4, 200, dt)
			energy += power * dt / 3600
			state = "feeding in"
			if power < 0.5 {
				state = "waiting for sun"
			}
		}, num("power", 2, &power), num("dc.voltage", 1, &volt), num("dc.current", 2, &amp), num("temp", 1, &temp), num("energy.today", 2, &energy), text("state", &state))
	}
}
