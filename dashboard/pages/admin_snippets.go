package pages

import (
	"fmt"
	"strings"

	"millrace/devices"
)

// A Code is something to paste, with the name of where it goes.
type Code struct{ Title, Text string }

// Snippets are ways to send a first message as the device, ready to paste: filled with the server's addresses, the device's
// id and its token, or a placeholder where the token is not known any more.
func Snippets(e Endpoints, id devices.ID, token string) []Code {
	if token == "" {
		token = "YOUR-TOKEN"
	}
	r := strings.NewReplacer("{HOST}", e.Host, "{PORT}", e.MQTTPort, "{ID}", string(id), "{TOKEN}", token, "{HTTP}", e.HTTP)
	curl := Code{"curl", r.Replace(`curl -u '{ID}:{TOKEN}' -H 'Content-Type: application/json' \
  -d '{"temperature": 21.5, "running": true}' \
  {HTTP}/api/v1/devices/{ID}/telemetry`)}
	if e.MQTTPort == "" {
		return []Code{curl}
	}
	mosquitto := func(version string) string {
		return r.Replace(fmt.Sprintf(`mosquitto_pub -V %s -h {HOST} -p {PORT} -i {ID} -u {ID} -P '{TOKEN}' -q 1 \
  -t devices/{ID}/telemetry -m '{"temperature": 21.5, "running": true}'`, version))
	}
	return []Code{
		{"mosquitto_pub, MQTT 5", mosquitto("5")},
		{"mosquitto_pub, MQTT 3.1.1", mosquitto("311")},
		curl,
		{"Python (pip install paho-mqtt)", r.Replace(`import json, random, time
import paho.mqtt.client as mqtt

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="{ID}")
client.username_pw_set("{ID}", "{TOKEN}")
client.connect("{HOST}", {PORT})
client.loop_start()
while True:
    values = {"temperature": round(20 + random.random(), 2)}
    client.publish("devices/{ID}/telemetry", json.dumps(values), qos=1)
    time.sleep(1)
`)},
		{"Arduino (PubSubClient)", r.Replace(`#include <WiFi.h>
#include <PubSubClient.h>

WiFiClient net;
PubSubClient mqtt(net);

void setup() {
  WiFi.begin("your-network", "its-password");
  while (WiFi.status() != WL_CONNECTED) delay(250);
  mqtt.setServer("{HOST}", {PORT});
}

void loop() {
  if (!mqtt.connected() && !mqtt.connect("{ID}", "{ID}", "{TOKEN}")) {
    delay(2000);
    return;
  }
  char body[64];
  snprintf(body, sizeof body, "{\"temperature\": %.2f}", analogRead(A0) * 0.1);
  mqtt.publish("devices/{ID}/telemetry", body);
  mqtt.loop();
  delay(1000);
}
`)},
		{"Arduino (ArduinoMqttClient)", r.Replace(`#include <WiFiNINA.h>
#include <ArduinoMqttClient.h>

WiFiClient net;
MqttClient mqtt(net);

void setup() {
  while (WiFi.begin("your-network", "its-password") != WL_CONNECTED) delay(2000);
  mqtt.setId("{ID}");
  mqtt.setUsernamePassword("{ID}", "{TOKEN}");
}

void loop() {
  if (!mqtt.connected() && !mqtt.connect("{HOST}", {PORT})) {
    delay(2000);
    return;
  }
  mqtt.poll();
  mqtt.beginMessage("devices/{ID}/telemetry", false, 1);
  mqtt.print("{\"temperature\": ");
  mqtt.print(analogRead(A0) * 0.1);
  mqtt.print("}");
  mqtt.endMessage();
  delay(1000);
}
`)},
	}
}
