package fleet

import (
	"fmt"
	"math"
	"time"

	"millrace/devices"
)

func path(s string) devices.GroupPath { return devices.GroupPath(s) }

// addUtilities adds compressed air, cooling, steam and the electricity meters: what the rest of the plant uses shows here.
func (p *Plant) addUtilities() {
	for i := range 3 {
		u := p.unit(fmt.Sprintf("compressor-%d", i+1), fmt.Sprintf("Compressor %d", i+1), "compressor", "riverside/utilities/air")
		pressure, flow, power, oil, load, hours := 7.0, 0.0, 2.0, 60.0, 0.0, float64(18_200+2_100*i)
		running, state := i == 0, "running"
		u.every(time.Second, func(dt float64) {
			w := &p.shared
			on, off := 6.8-0.15*float64(i), 7.5-0.1*float64(i) // staggered, the lead machine first
			if w.air < on {
				running = true
			} else if w.air > off {
				running = false
			}
			state = "unloaded"
			target := 12.0
			if running {
				state, target = "loaded", 100
			}
			load = approach(load, target, 3, dt)
			flow = max(0, (load-12)/88*14+p.noise(0.1))
			power = 8 + load*0.82 + p.noise(0.5)
			oil = approach(oil, 52+load*0.35+w.outside*0.3, 120, dt)
			use := 15 + 4*math.Sin(w.parts/7) + w.pressLoad*0.03
			w.air = clamp(w.air+(flow-use/3)*dt*0.004, 5.5, 8.2)
			pressure = w.air + p.noise(0.01)
			hours += dt / 3600
		}, num("air.pressure", 2, &pressure), num("air.flow", 1, &flow), num("power", 1, &power), num("oil.temp", 1, &oil),
			num("load", 0, &load), num("hours", 2, &hours), flag("running", &running), text("state", &state))
	}
	for i := range 2 {
		u := p.unit(fmt.Sprintf("chiller-%d", i+1), fmt.Sprintf("Chiller %d", i+1), "chiller", "riverside/utilities/heat")
		supply, back, flow, power, cop, state := 6.5, 12.0, 85.0, 60.0, 4.2, "cooling"
		u.every(2*time.Second, func(dt float64) {
			heat := 200 + p.shared.pressLoad*0.5 + (p.shared.outside-10)*6
			supply = p.drift(supply, 6.5, 0.3, 60, dt)
			flow = p.drift(flow, 85, 1.5, 30, dt)
			back = approach(back, supply+heat/flow*0.86*2, 20, dt)
			cop = clamp(5.4-(p.shared.outside-8)*0.06, 2, 6) + p.noise(0.02)
			power = heat / cop
		}, num("supply.temp", 2, &supply), num("return.temp", 2, &back), num("flow", 1, &flow), num("power", 1, &power), num("cop", 2, &cop), text("state", &state))
	}
	boiler := p.unit("boiler-1", "Steam boiler", "boiler", "riverside/utilities/heat")
	level, flue, oxygen, fuel, burner, feed := 55.0, 190.0, 4.1, 60.0, true, false
	boiler.every(time.Second, func(dt float64) {
		w := &p.shared
		burner = w.steam < 9.2 || burner && w.steam < 10.0
		target := 0.0
		if burner {
			target = 110
		}
		fuel = max(0, approach(fuel, target, 4, dt)+p.noise(0.3))
		w.steam = clamp(w.steam+(fuel*0.00045-0.022)*dt+p.noise(0.003), 7.5, 11)
		flue = approach(flue, 120+fuel*0.95, 40, dt)
		oxygen = approach(oxygen, 20.9-min(fuel, 60)*0.28, 15, dt) + p.noise(0.03)
		feed = level < 45 || feed && level < 65
		if feed {
			level += 0.35 * dt
		}
		level = clamp(level-0.12*dt+p.noise(0.05), 5, 95)
	}, num("steam.pressure", 2, &p.shared.steam), num("water.level", 1, &level), num("flue.temp", 0, &flue),
		num("oxygen", 1, &oxygen), num("fuel.flow", 1, &fuel), flag("burner.on", &burner))

	for i, name := range []string{"Main feed", "Press line feed", "Building feed"} {
		u := p.unit(fmt.Sprintf("meter-%d", i+1), name, "energy meter", "riverside/utilities/power")
		var volt, amp [3]float64
		hertz, power, reactive, factor, energy := 50.0, 200.0, 60.0, 0.94, float64(1_900_000+310_000*i)
		grid := 231.0
		fields := []field{num("frequency", 3, &hertz), num("power", 1, &power), num("power.reactive", 1, &reactive), num("power.factor", 3, &factor)}
		for l := range volt {
			volt[l] = 231
			fields = append(fields, num(fmt.Sprintf("voltage.l%d", l+1), 1, &volt[l]), num(fmt.Sprintf("current.l%d", l+1), 1, &amp[l]))
		}
		u.every(200*time.Millisecond, func(dt float64) {
			w := &p.shared
			w.demand = p.drift(w.demand, 180, 12, 120, dt/3)
			use := [3]float64{w.pressLoad + w.demand, w.pressLoad, w.demand * 0.4}[i]
			power = approach(power, use, 0.5, dt) + p.noise(0.8)
			grid = p.drift(grid, 231-power*0.01, 1.2, 30, dt)
			hertz = p.drift(hertz, 50, 0.015, 20, dt)
			factor = clamp(0.96-w.pressLoad/max(use, 1)*0.05+p.noise(0.002), 0.7, 1)
			reactive = power * math.Tan(math.Acos(factor))
			for l := range volt {
				volt[l] = grid + float64(l-1)*0.8 + p.noise(0.15)
				amp[l] = power / factor / 3 / volt[l] * 1000 * (1 + float64(l-1)*0.03)
			}
			energy += power * dt / 3600
		}, fields...)
		u.every(5*time.Second, nil, num("energy", 1, &energy))
	}
}

// addTanks adds six tanks that fill and empty, the pumps between them, and two gas detectors.
func (p *Plant) addTanks() {
	products := []string{"water", "hydraulic oil", "resin A", "resin B", "solvent", "waste water"}
	pumping := make([]bool, 6)
	for i, what := range products {
		u := p.unit(fmt.Sprintf("tank-%d", i+1), fmt.Sprintf("Tank %d, %s", i+1, what), "tank", "riverside/tank-farm")
		size := 40 + 15*float64(i%3)
		level, temp, pressure, in, out := 30+50*p.rnd.Float64(), 18.0, 1.02, 0.0, 0.0
		var volume float64
		filling, product := i%2 == 0, what
		u.every(time.Second, func(dt float64) {
			if level > 84 {
				filling = false
			} else if level < 22 {
				filling = true
			}
			pumping[i] = !filling
			wantIn, wantOut := 0.0, 0.0
			if filling {
				wantIn = 26
			} else {
				wantOut = 22
			}
			in = max(0, approach(in, wantIn, 4, dt)+p.noise(0.05)*wantIn/26)
			out = max(0, approach(out, wantOut, 4, dt)+p.noise(0.05)*wantOut/22)
			level = clamp(level+(in-out)*dt/36/size*6, 0, 100) // six times as fast as life, so that there is something to see
			volume = level / 100 * size
			temp = approach(temp, p.shared.outside+4, 1800, dt) + p.noise(0.02)
			pressure = 1.013 + level*0.0009 + p.noise(0.0005)
		}, num("level", 2, &level), num("volume", 2, &volume), num("temp", 1, &temp), num("pressure", 3, &pressure), num("flow.in", 1, &in), num("flow.out", 1, &out))
		u.every(5*time.Second, nil, flag("valve.in", &filling), flag("valve.out", &pumping[i]), text("product", &product))
	}
	for i := range 3 {
		u := p.unit(fmt.Sprintf("pump-%d", i+1), fmt.Sprintf("Pump %d", i+1), "pump", "riverside/tank-farm")
		var flow, pressure, speed, current float64
		bearing, running := 34.0, false
		u.every(500*time.Millisecond, func(dt float64) {
			running = pumping[2*i] || pumping[2*i+1]
			target := 0.0
			if running {
				target = 1460
			}
			speed = max(0, approach(speed, target, 2.5, dt)+p.noise(2)*target/1460)
			part := speed / 1460
			flow = 44*part + p.noise(0.2)*part
			pressure = 0.3 + 3.4*part*part + p.noise(0.02)
			current = 21*part*part*part + 1.5*part + p.noise(0.1)*part
			bearing = approach(bearing, p.shared.outside+8+30*part, 200, dt) + p.noise(0.03)
		}, num("flow", 2, &flow), num("pressure", 2, &pressure), whole("speed", &speed), num("motor.current", 2, &current),
			num("bearing.temp", 1, &bearing), flag("running", &running))
	}
	for i := range 2 {
		u := p.unit(fmt.Sprintf("gas-%d", i+1), fmt.Sprintf("Gas detector %d", i+1), "gas detector", "riverside/tank-farm")
		lel, h2s, co, battery := 0.4, 0.2, 2.0, 91.0
		r := u.every(5*time.Second, func(dt float64) {
			lel = max(0, p.drift(lel, 0.5, 0.3, 60, dt))
			if p.often(600, dt) {
				lel = 12 // a whiff while a truck is filled
			}
			h2s = max(0, p.drift(h2s, 0.2, 0.1, 90, dt))
			co = max(0, p.drift(co, 2, 1, 120, dt))
			if battery -= dt * 0.0005; battery < 15 {
				battery = 100
			}
		}, num("gas.lel", 1, &lel), num("gas.h2s", 2, &h2s), num("gas.co", 1, &co), num("battery", 1, &battery))
		r.single = true // small nodes that send one value a topic
	}
}
