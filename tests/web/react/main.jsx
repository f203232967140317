import { hydrateRoot } from "react-dom/client";
import { app, client } from "./app.jsx";

hydrateRoot(document.getElementById("root"), app, { onRecoverableError: (error) => console.error(error) });
client.connect();
window.client = client;
