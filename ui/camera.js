"use strict";

// Pictures from the camera. The page treats them as files.
page.camera = (() => {
  const { element, note } = page;
  const BACK_CAMERA = { facingMode: { ideal: "environment" } }; // of a phone, which has a front camera too
  const NO_CAMERA = "There is no camera, or the browser may not use it. Connect one, or allow it in the browser.";
  const video = element("live");
  let preferred = BACK_CAMERA;
  let cameras = []; // their ids; a browser lists them when one is in use
  let starting = false;

  async function start() {
    if (starting) return; // a second stream would never be stopped
    starting = true;
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: preferred });
      await video.play();
      element("finder").hidden = false;
      element("shoot").focus();
      const devices = await navigator.mediaDevices.enumerateDevices();
      cameras = devices.filter(({ kind }) => kind === "videoinput").map(({ deviceId }) => deviceId);
      element("switch").hidden = cameras.length < 2;
    } catch ({ name }) {
      stop();
      preferred = BACK_CAMERA; // the other camera may have been removed
      if (name !== "AbortError") note(NO_CAMERA); // it is an AbortError if an image was chosen meanwhile
    }
    starting = false;
  }

  async function switchCamera() {
    const [track] = video.srcObject.getVideoTracks();
    const next = (cameras.indexOf(track.getSettings().deviceId) + 1) % cameras.length;
    preferred = { deviceId: { exact: cameras[next] } };
    stop(); // a phone runs one camera at a time
    await start();
    element("switch").focus();
  }

  function stop() {
    for (const track of video.srcObject?.getTracks() ?? []) track.stop();
    video.srcObject = null;
    element("finder").hidden = true;
  }

  function takePicture() {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    leave();
    canvas.toBlob((blob) => {
      if (blob) page.choosing.take([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
      else note("The camera gave no picture. Try again.");
    }, "image/jpeg");
  }

  function leave() {
    stop();
    element("camera").focus();
  }

  element("camera").hidden = !navigator.mediaDevices; // an insecure address has none
  element("camera").addEventListener("click", start);
  element("shoot").addEventListener("click", takePicture);
  element("switch").addEventListener("click", switchCamera);
  element("cancel").addEventListener("click", leave);

  return { stop };
})();
