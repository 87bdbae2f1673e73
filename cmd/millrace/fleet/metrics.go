package fleet

import "millrace/devices"

func groups() []devices.Group {
	g := func(path devices.GroupPath, label string) devices.Group {
		return devices.Group{Path: path, Label: label}
	}
	return []devices.Group{
		g("riverside", "Riverside plant"),
		g("riverside/press-line", "Press line"),
		g("riverside/press-line/cell-a", "Cell A, presses 1 to 3"),
		g("riverside/press-line/cell-b", "Cell B, presses 4 to 6"),
		g("riverside/packaging", "Packaging"),
		g("riverside/packaging/robots", "Palletising robots"),
		g("riverside/utilities", "Utilities"),
		g("riverside/utilities/power", "Electricity"),
		g("riverside/utilities/air", "Compressed air"),
		g("riverside/utilities/heat", "Steam and cooling"),
		g("riverside/tank-farm", "Tank farm"),
		g("riverside/fleet", "Vehicles"),
		g("riverside/fleet/forklifts", "Forklifts"),
		g("riverside/fleet/agv", "Driverless carriers"),
		g("riverside/building", "Building"),
		g("riverside/building/rooms", "Rooms"),
		g("riverside/building/roof", "Roof: weather and solar"),
	}
}

// metrics are the settings of the site's metrics: what to call them, in which unit, and between which limits they are normal.
func metrics() []devices.Metric {
	var all []devices.Metric
	plain := func(name, label, unit string) {
		all = append(all, devices.Metric{Name: name, Label: label, Unit: unit})
	}
	band := func(name, label, unit string, low, high float64) {
		all = append(all, devices.Metric{Name: name, Label: label, Unit: unit, Low: &low, High: &high})
	}
	below := func(name, label, unit string, high float64) {
		all = append(all, devices.Metric{Name: name, Label: label, Unit: unit, High: &high})
	}
	above := func(name, label, unit string, low float64) {
		all = append(all, devices.Metric{Name: name, Label: label, Unit: unit, Low: &low})
	}

	plain("ram.position", "Ram position", "mm")
	below("ram.force", "Ram force", "kN", 900)
	below("oil.pressure", "Oil pressure", "bar", 260)
	band("oil.temp", "Oil temperature", "°C", 25, 70)
	below("motor.current", "Motor current", "A", 95)
	below("motor.temp", "Motor temperature", "°C", 90)
	plain("tool.temp", "Tool temperature", "°C")
	plain("state", "State", "")
	plain("mode", "Mode", "")
	plain("guard.closed", "Guard closed", "")
	plain("cycle.count", "Cycles", "")
	plain("cycle.time", "Cycle time", "s")
	plain("parts.good", "Good parts", "")
	plain("parts.bad", "Bad parts", "")
	below("vibration.x", "Vibration, across", "mm/s", 20)
	below("vibration.y", "Vibration, along", "mm/s", 20)
	below("vibration.z", "Vibration, upright", "mm/s", 20)
	below("vibration.rms", "Vibration, effective", "mm/s", 7.1)
	plain("bearing.temp", "Bearing temperature", "°C")

	plain("belt.speed", "Belt speed", "m/s")
	below("belt.load", "Belt load", "kg", 60)
	plain("items", "Items", "")
	plain("running", "Running", "")
	plain("jam", "Jam", "")
	for _, j := range []string{"1", "2", "3", "4", "5", "6"} {
		plain("joint."+j, "Joint "+j, "°")
		below("torque."+j, "Torque of joint "+j, "Nm", 320)
	}
	plain("gripper.closed", "Gripper closed", "")
	plain("payload", "Payload", "kg")
	band("weight", "Weight", "g", 985, 1030)
	plain("weight.mean", "Mean weight", "g")
	plain("rejected", "Rejected", "")
	above("labels.left", "Labels left", "", 500)

	band("air.pressure", "Air pressure", "bar", 6.2, 8)
	plain("air.flow", "Air flow", "m³/min")
	plain("power", "Power", "kW")
	plain("load", "Load", "%")
	plain("hours", "Hours run", "h")
	band("supply.temp", "Supply temperature", "°C", 4, 10)
	plain("return.temp", "Return temperature", "°C")
	plain("flow", "Flow", "m³/h")
	plain("cop", "Coefficient of performance", "")
	band("steam.pressure", "Steam pressure", "bar", 8.5, 10.5)
	band("water.level", "Water level", "%", 35, 75)
	plain("flue.temp", "Flue gas temperature", "°C")
	plain("oxygen", "Oxygen in the flue gas", "%")
	plain("burner.on", "Burner on", "")
	plain("fuel.flow", "Fuel flow", "m³/h")
	for _, l := range []string{"1", "2", "3"} {
		band("voltage.l"+l, "Voltage L"+l, "V", 215, 245)
		plain("current.l"+l, "Current L"+l, "A")
	}
	band("frequency", "Frequency", "Hz", 49.8, 50.2)
	plain("power.reactive", "Reactive power", "kvar")
	above("power.factor", "Power factor", "", 0.85)
	plain("energy", "Energy", "kWh")

	band("level", "Level", "%", 10, 90)
	plain("volume", "Volume", "m³")
	plain("temp", "Temperature", "°C")
	plain("pressure", "Pressure", "bar")
	plain("valve.in", "Inlet open", "")
	plain("valve.out", "Outlet open", "")
	plain("flow.in", "Flow in", "m³/h")
	plain("flow.out", "Flow out", "m³/h")
	plain("product", "Product", "")
	plain("speed", "Speed", "1/min")
	below("gas.lel", "Combustible gas", "% LEL", 10)
	below("gas.h2s", "Hydrogen sulphide", "ppm", 5)
	below("gas.co", "Carbon monoxide", "ppm", 30)

	plain("location", "Location", "")
	plain("ground.speed", "Speed", "km/h")
	plain("heading", "Heading", "°")
	above("battery", "Battery", "%", 20)
	plain("fork.height", "Fork height", "m")
	plain("mission", "Mission", "")
	plain("obstacle", "Obstacle ahead", "")

	plain("humidity", "Relative humidity", "%")
	below("co2", "Carbon dioxide", "ppm", 1200)
	plain("light", "Light", "lx")
	plain("occupied", "Occupied", "")
	plain("setpoint", "Set point", "°C")
	plain("fan", "Fan", "%")
	plain("valve", "Valve", "%")
	plain("air.barometric", "Air pressure outside", "hPa")
	below("wind.speed", "Wind", "m/s", 17)
	plain("wind.direction", "Wind direction", "°")
	plain("rain", "Rain", "mm/h")
	plain("radiation", "Solar radiation", "W/m²")
	plain("dc.voltage", "DC voltage", "V")
	plain("dc.current", "DC current", "A")
	plain("energy.today", "Energy today", "kWh")
	return all
}
