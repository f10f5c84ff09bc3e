"use strict";

// A picture taken with the camera goes the way of a file.

const live = element("live");
const BACK = { facingMode: { ideal: "environment" } }; // a phone's camera for what is before one
let preferred = BACK;
let cameras = []; // their ids, which browsers tell once one is in use
let starting = false;

async function startCamera() {
  if (starting) return; // two would run where one is stopped
  starting = true;
  try {
    live.srcObject = await navigator.mediaDevices.getUserMedia({ video: preferred });
    await live.play();
    element("finder").hidden = false;
    element("shoot").focus();
    const devices = await navigator.mediaDevices.enumerateDevices();
    cameras = devices.filter(({ kind }) => kind === "videoinput").map(({ deviceId }) => deviceId);
    element("switch").hidden = cameras.length < 2;
  } catch ({ name }) {
    stopCamera();
    preferred = BACK; // the other one may be gone
    if (name !== "AbortError") note("There is no camera, or the browser may not use it."); // as an image was chosen
  }
  starting = false;
}

async function switchCamera() {
  const [track] = live.srcObject.getVideoTracks();
  const next = (cameras.indexOf(track.getSettings().deviceId) + 1) % cameras.length;
  preferred = { deviceId: { exact: cameras[next] } };
  stopCamera(); // a phone runs one at once
  await startCamera();
  element("switch").focus();
}

function stopCamera() {
  for (const track of live.srcObject?.getTracks() ?? []) track.stop();
  live.srcObject = null;
  element("finder").hidden = true;
}

function takePicture() {
  const canvas = document.createElement("canvas");
  canvas.width = live.videoWidth;
  canvas.height = live.videoHeight;
  canvas.getContext("2d").drawImage(live, 0, 0);
  leaveCamera();
  canvas.toBlob((blob) => {
    if (blob) take([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
    else note("The camera gave no picture. Try again.");
  }, "image/jpeg");
}

function leaveCamera() {
  stopCamera();
  element("camera").focus();
}

element("camera").hidden = !navigator.mediaDevices; // there are none in an insecure context
element("camera").addEventListener("click", startCamera);
element("shoot").addEventListener("click", takePicture);
element("switch").addEventListener("click", switchCamera);
element("cancel").addEventListener("click", leaveCamera);
