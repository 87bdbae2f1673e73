package spine

func crashChild(string) {}
