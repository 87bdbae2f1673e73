package fleet

import (
	"fmt"
	"math"
	"time"
)

// addPresses adds six hydraulic presses with their vibration sensors. A press works in cycles of some six seconds: close,
// press, hold, open; oil, motor and tool warm up with the work; the vibration follows the blow.
func (p *Plant) addPresses() {
	for i := range 6 {
		n := i + 1
		p.addPress(n, []string{"cell-a", "cell-b"}[i/3])
	}
	plc := p.unit("plc-legacy", "Old line controller", "controller", "riverside/press-line")
	var speed, scrap float64
	state := "run"
	plc.every(time.Second, func(dt float64) {
		speed = p.drift(speed, 9.8, 0.6, 60, dt)
		scrap = clamp(p.drift(scrap, 1.5, 0.4, 300, dt), 0, 9)
	}, num("cycle.time", 1, &speed), num("scrap.rate", 2, &scrap), text("state", &state))
}

func (p *Plant) addPress(n int, cell string) {
	group := "riverside/press-line/" + cell
	u := p.unit(fmt.Sprintf("press-%d", n), fmt.Sprintf("Press %d", n), "hydraulic press", path(group))
	period := 5.4 + 0.3*float64(n)
	var phase, ram, force, blow float64
	pressure, oil, current, motor, tool := 40.0, 38+p.noise(3), 20.0, 45+p.noise(3), 60.0
	cycles, good, bad := float64(41_000+7_300*n), float64(39_800+7_250*n), float64(310+12*n)
	state, mode, closed := "running", "auto", true
	pause := 0.0
	step := func(dt float64) {
		if pause > 0 {
			pause -= dt
			state, closed = "set-up", pause < 4
			if pause <= 0 {
				state, closed = "running", true
			}
		} else if phase += dt / period; phase >= 1 {
			phase--
			cycles++
			if p.rnd.Float64() < 0.006 {
				bad++
			} else {
				good++
				p.shared.parts++
			}
			if p.rnd.Float64() < 0.012 {
				pause = 12 + 20*p.rnd.Float64()
			}
		}
		position, push := 400.0, 0.0
		switch {
		case pause > 0:
		case phase < 0.25: // closing
			position = 400 - 380*smooth(phase/0.25)
		case phase < 0.35: // pressing
			position, push = 20-12*smooth((phase-0.25)/0.10), 820*smooth((phase-0.25)/0.10)
		case phase < 0.60: // holding
			position, push = 8, 820
		case phase < 0.85: // opening
			position = 8 + 392*smooth((phase-0.60)/0.25)
		}
		if pause <= 0 && phase >= 0.25 && phase-dt/period < 0.25 {
			blow = 14
		}
		ram = approach(ram, position, 0.08, dt) + p.noise(0.05)
		force = max(0, approach(force, push, 0.12, dt)+p.noise(2))
		pressure = approach(pressure, 40+force*0.24, 0.15, dt) + p.noise(0.4)
		load := 18 + force*0.07
		if pause > 0 {
			load = 9
		}
		current = approach(current, load, 0.4, dt) + p.noise(0.3)
		motor = approach(motor, 30+current*0.9, 240, dt)
		oil = approach(oil, 30+current*0.55+p.shared.outside*0.2, 300, dt)
		tool = approach(tool, 60+force*0.06, 90, dt)
		p.shared.pressLoad = approach(p.shared.pressLoad, 6*current*0.68, 3, dt/6)
	}
	shown := new(float64) // the pressure as its sensor shows it
	u.every(100*time.Millisecond, func(dt float64) {
		step(dt)
		*shown = pressure
		if n == 4 && p.often(25, dt) {
			*shown = 340 + 60*p.rnd.Float64() // a loose plug: one sample
		}
	}, num("ram.position", 1, &ram), num("ram.force", 1, &force), num("oil.pressure", 1, shown), num("motor.current", 1, &current))
	u.every(time.Second, nil, num("oil.temp", 1, &oil), num("motor.temp", 1, &motor), num("tool.temp", 1, &tool),
		whole("cycle.count", &cycles), whole("parts.good", &good), whole("parts.bad", &bad),
		text("state", &state), text("mode", &mode), flag("guard.closed", &closed))

	v := p.unit(fmt.Sprintf("vib-%d", n), fmt.Sprintf("Vibration of press %d", n), "vibration sensor", path(group))
	rate := 100 * time.Millisecond
	if n <= 2 {
		rate = 20 * time.Millisecond
	}
	var x, y, z, rms, t float64
	bearing := 41 + p.noise(2)
	v.every(rate, func(dt float64) {
		t += dt
		blow = approach(blow, 0, 0.35, dt)
		swing := math.Sin(2 * math.Pi * 6.3 * t)
		x = 0.8*p.noise(1) + blow*swing*0.4
		y = 0.6*p.noise(1) + blow*swing*0.3
		z = 1.0*p.noise(1) + blow*math.Sin(2*math.Pi*7.1*t)
		if n == 2 && p.often(30, dt) {
			z = 55 + 20*p.rnd.Float64() // a single blow that no average would show
		}
		rms = math.Sqrt(approach(rms*rms, x*x+y*y+z*z, 2, dt))
		bearing = approach(bearing, 38+motor*0.1+rms*0.6, 120, dt)
	}, num("vibration.x", 2, &x), num("vibration.y", 2, &y), num("vibration.z", 2, &z))
	v.every(time.Second, nil, num("vibration.rms", 2, &rms), num("bearing.temp", 1, &bearing))
}

// smooth goes from 0 to 1 without a kink at either end.
func smooth(x float64) float64 { return x * x * (3 - 2*x) }

// addPackaging adds conveyors, robots, checkweighers and a labeller. They live off the parts that the presses make.
func (p *Plant) addPackaging() {
	for i := range 4 {
		u := p.unit(fmt.Sprintf("conveyor-%d", i+1), fmt.Sprintf("Conveyor %d", i+1), "conveyor", "riverside/packaging")
		speed, load, current, motor, items := 0.6, 12.0, 4.0, 38.0, float64(120_000+9_000*i)
		running, jam, state, stuck := true, false, "running", 0.0
		u.every(500*time.Millisecond, func(dt float64) {
			if stuck > 0 {
				stuck -= dt
			} else if p.often(420, dt) {
				stuck = 8 + 10*p.rnd.Float64()
			}
			jam = stuck > 0
			running = !jam
			target := 0.6
			state = "running"
			if jam {
				target, state = 0, "jammed"
			}
			speed = max(0, approach(speed, target, 0.8, dt)+p.noise(0.004))
			load = clamp(p.drift(load, 8+min(p.shared.parts, 60)*0.5, 3, 8, dt), 0, 80)
			current = approach(current, 1.2+speed*3+load*0.06, 0.5, dt) + p.noise(0.05)
			motor = approach(motor, 26+current*2.6, 180, dt)
			if running && p.often(0.9, dt) {
				items++
				p.shared.parts = max(0, p.shared.parts-1)
			}
		}, num("belt.speed", 3, &speed), num("belt.load", 1, &load), num("motor.current", 2, &current), num("motor.temp", 1, &motor),
			whole("items", &items), flag("running", &running), flag("jam", &jam), text("state", &state))
	}
	for i := range 2 {
		p.addRobot(i + 1)
	}
	for i := range 2 {
		u := p.unit(fmt.Sprintf("weigher-%d", i+1), fmt.Sprintf("Checkweigher %d", i+1), "checkweigher", "riverside/packaging")
		weight, mean, items, rejected, wear := 1000.0, 1004.0, float64(88_000+4_000*i), float64(410+35*i), 0.0
		u.every(400*time.Millisecond, func(dt float64) {
			wear = p.drift(wear, 0, 4, 900, dt)
			weight = 1004 + wear + p.noise(4)
			items++
			if p.rnd.Float64() < 0.004 {
				weight -= 40 + 20*p.rnd.Float64()
				rejected++
			}
			mean = approach(mean, weight, 30, dt)
		}, num("weight", 1, &weight), num("weight.mean", 2, &mean), whole("items", &items), whole("rejected", &rejected))
	}
	u := p.unit("labeller", "Labeller", "labeller", "riverside/packaging")
	left, temp, state := 9_400.0, 64.0, "running"
	u.every(time.Second, func(dt float64) {
		if left -= 2; left < 40 {
			left, state = 10_000, "reel changed"
		} else if left < 9_900 {
			state = "running"
		}
		temp = p.drift(temp, 64, 0.8, 40, dt)
	}, whole("labels.left", &left), num("temp", 1, &temp), text("state", &state))
}

// addRobot adds a palletising robot: six joints between pick and place, torque by acceleration and payload.
func (p *Plant) addRobot(n int) {
	u := p.unit(fmt.Sprintf("robot-%d", n), fmt.Sprintf("Robot %d", n), "robot", "riverside/packaging/robots")
	pick := [6]float64{-62, 28, 74, 0, 48, -62}
	drop := [6]float64{71, 12, 96, 4, 61, 71}
	var joint, speed, torque [6]float64
	var phase, payload float64
	closed, state := false, "moving"
	cycle := 7.5 + float64(n)
	fields := make([]field, 0, 12)
	for j := range joint {
		fields = append(fields, num(fmt.Sprintf("joint.%d", j+1), 2, &joint[j]), num(fmt.Sprintf("torque.%d", j+1), 1, &torque[j]))
	}
	u.every(100*time.Millisecond, func(dt float64) {
		phase = math.Mod(phase+dt/cycle, 1)
		way := 0.0
		switch {
		case phase < 0.1:
			state, closed, payload = "picking", phase > 0.05, 12.5
		case phase < 0.45:
			state, way = "moving", smooth((phase-0.1)/0.35)
		case phase < 0.55:
			state, way, closed = "placing", 1, phase < 0.5
		default:
			state, way, payload, closed = "returning", 1-smooth((phase-0.55)/0.45), 0, false
		}
		for j := range joint {
			was := speed[j]
			to := pick[j] + (drop[j]-pick[j])*way
			speed[j] = (to - joint[j]) / dt
			joint[j] = to
			lever := 1 / float64(j+1)
			torque[j] = (60+payload*5)*lever*math.Cos(joint[1]*math.Pi/180) + clamp((speed[j]-was)*0.4, -60, 60)*lever + p.noise(1.5)
		}
	}, fields...)
	u.every(time.Second, nil, flag("gripper.closed", &closed), num("payload", 1, &payload), text("state", &state))
}
